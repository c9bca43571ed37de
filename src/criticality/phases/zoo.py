"""Every function of the zoo classified, at several alphas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from criticality.arguments import Positive, Scale, checked
from criticality.errors import CriticalityError
from criticality.phases.classification import DEPTHS, classify
from criticality.phases.depth import ResidualStep
from criticality.pointwise import ZOO, Pointwise, PointwiseFunction, get_function
from criticality.theory.norms import PointwiseNorm

ALPHAS = (0.25, 0.5, 1.0, 2.0)


_FAILED: dict[str, Any] = {
    "class": "failed",
    "exponent": math.nan,
    "coefficient": math.nan,
    "interval": (math.nan, math.nan),
    "crossover_depth": math.nan,
    "analytic": None,
    "agrees": None,
    "log_apjn": dict.fromkeys(DEPTHS, math.nan),
}


@checked
def zoo_function(name: str) -> PointwiseFunction:
    """As ``get_function``."""
    return get_function(name)


@checked
def zoo_table(weight_variance: Scale = 1.0, alphas: Sequence[Positive] = ALPHAS) -> Iterator[dict[str, Any]]:
    """Every function at every alpha: class, exponent, coefficient, and ``log J`` at ``DEPTHS``.

    One that cannot be classified has the class ``failed``, nan for its numbers, and says ``why``.

    Raises:
        CriticalityError: an alpha or a variance that is not allowed.
    """
    for name, function in ZOO.items():
        for alpha in alphas:
            step = ResidualStep(PointwiseNorm(Pointwise(function, alpha=alpha)), weight_variance)
            try:
                found = classify(step).record()
            except CriticalityError as refusal:
                found = {**_FAILED, "why": str(refusal)}
            yield {"function": name, "alpha": alpha, **found}


__all__ = ["ALPHAS", "DEPTHS", "ZOO", "zoo_function", "zoo_table"]
