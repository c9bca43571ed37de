"""The laws by which ``log J`` grows at great depth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PowerLaw:
    """``J(0 -> L) ~ L^zeta``.

    Attributes:
        exponent: ``zeta``; of the difference mode of the tokens, ``u - v``, where they mix.
        common_exponent: that of their common mode, ``u + (T-1) v``; the same number where tokens do not mix.
        correlation: that tokens tend to; nan where it plays no part.
        takeover_depth: ``T^(1 / (common_exponent - exponent))``, the order of the depth by which the common mode has taken over, at
            the latest; 1 where there is one exponent, infinite beyond 10^300.
    """

    exponent: float
    common_exponent: float
    correlation: float = math.nan
    takeover_depth: float = 1.0

    def record(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {"law": "J ~ L^exponent", **_known(self)}


@dataclass(frozen=True)
class StretchedLaw:
    """``log J(0 -> L) = coefficient L^exponent + logarithm log L + O(1)``.

    Attributes:
        exponent: 1/2 of a bounded function.
        coefficient: dimensionless, ``L`` in layers or blocks; nan where it depends on more than what is known.
        logarithm: ``b``; nan where the next order is not a logarithm, or not known.
        correlation: ``c*`` that tokens tend to; nan where they do not mix.
        relaxation: ``kappa``, they tend to it as ``L^-kappa``; the next order of ``log J`` is then ``L^(1/2 - kappa)`` where
            ``kappa`` is below 1/2, and its coefficient depends on the input.
        crossover_depth: ``l*``, at which ``alpha^2 q = 1``: growth is exponential before.
    """

    exponent: float
    coefficient: float
    logarithm: float = math.nan
    correlation: float = math.nan
    relaxation: float = math.nan
    crossover_depth: float = math.nan

    @property
    def scale(self) -> float:
        """``lambda`` of ``log J ~ sqrt(L / lambda)``; nan for another exponent than 1/2."""
        return self.coefficient**-2 if self.exponent == 0.5 and self.coefficient > 0 else math.nan

    def record(self) -> dict[str, Any]:
        """As the command line prints it; ``scale`` is called ``lambda``."""
        logarithm = "" if math.isnan(self.logarithm) else " + logarithm log L"
        fields = {"law": f"log J ~ coefficient L^exponent{logarithm}", **_known(self)}
        return fields if math.isnan(self.scale) else {**fields, "lambda": self.scale}


@dataclass(frozen=True)
class ExponentialLaw:
    """``log J(0 -> L) ~ rate L``."""

    rate: float

    def record(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {"law": "log J ~ rate L", **_known(self)}


Law = PowerLaw | StretchedLaw | ExponentialLaw


def _known(law: Any) -> dict[str, float]:
    return {name: value for name, value in asdict(law).items() if not math.isnan(value)}
