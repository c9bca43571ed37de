"""Exponential, stretched exponential or power law: by the tail of the function, and by its own depth profile."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from criticality.arguments import Correlation, Size, Start, checked
from criticality.errors import UndescribedError
from criticality.phases.asymptotics import ExponentialLaw, Law, PowerLaw, StretchedLaw, law_of
from criticality.phases.depth import BlockStep, ResidualStep, amplification
from criticality.phases.tails import Asymptote, slope_diverges, tail_of
from criticality.theory.network import Network
from criticality.theory.norms import Norm, PointwiseNorm

Class = Literal["exponential", "stretched", "power", "decaying", "divergent"]

DEPTHS = (12, 48, 192, 1000)
"""Depths at which ``log J`` is given."""

_DECADES = np.logspace(0, 9, 109)
_SETTLED = 0.03
_MOST_KINKS, _MOST_CURVED = 4, 1
"""Of a function of one's own, with straight and with curved pieces between them."""


@dataclass(frozen=True)
class Classification:
    """How ``log J(0 -> L)`` of a residual network grows.

    Attributes:
        kind: the class that the profile over nine decades of depth shows; ``divergent`` where ``E phi'^2``, and with it
            ``J``, is infinite at any depth, as the slope of ``phi`` is not square integrable at a kink.
        exponent: of ``L`` in ``log J`` (``stretched``: below one; ``exponential``: 1), or ``zeta`` of ``J ~ L^zeta``.
        coefficient: of ``L^exponent`` in ``log J``; nan for a power law.
        interval: of the exponent, from how much it still moves over the last three decades.
        crossover_depth: depth from which the profile is nearer to its asymptotic class than to exponential growth; nan for
            an exponential.
        analytic: class, exponent and coefficient from the tail of the function, ``None`` where none is known; exponent
            and coefficient are nan where they depend on more than tails.
        agrees: whether both classes are one and the analytic exponent, if known, lies in the interval; of a power law in two modes,
            whether the interval reaches the range between both exponents, as the profile goes from one to the other.
        law: what ``log J`` comes to in closed form (``criticality.phases.asymptotics``), ``None`` where none is known.
        log_apjn: ``log J`` at ``DEPTHS``.
    """

    kind: Class
    exponent: float
    coefficient: float
    interval: tuple[float, float]
    crossover_depth: float
    analytic: Asymptote | None
    agrees: bool | None
    law: Law | None
    log_apjn: dict[int, float]

    def record(self) -> dict[str, Any]:
        """As the command line prints it: ``kind`` is called ``class``, and ``law`` ``asymptotics``."""
        fields = asdict(self)
        if fields.pop("law") is not None and self.law is not None:
            fields["asymptotics"] = self.law.record()
        return {"class": fields.pop("kind"), **fields}


@checked
def classify(
    network: ResidualStep | Network, q0: Start = 1.0, *, rho0: Correlation = 0.0, tokens: Size = 1
) -> Classification:
    """Classify ``x <- x + W norm(x) + b``, or a whole network (docs/theory, section 7).

    The profile alone cannot tell a stretched exponential with a tiny exponent from a power law: that is what the
    analytic class is for, and both are reported.

    Args:
        network: one layer, or a network whose last block is repeated to any depth.
        q0: variance of the input.
        rho0, tokens: of a network with attention: correlation at the input and number of equivalent tokens.

    Raises:
        UndescribedError: a network of several tokens with a function of one's own with more than one kink, or four
            with straight pieces between them.
        ValueError: as ``amplification`` and ``tail_of``; a network that tells tokens apart.
    """
    step = BlockStep(network, tokens, rho0) if isinstance(network, Network) else network
    if any(slope_diverges(norm.pointwise.phi) for norm in _norms(network) if isinstance(norm, PointwiseNorm)):
        nan, infinite = math.nan, dict.fromkeys(DEPTHS, math.inf)
        return Classification(
            kind="divergent",
            exponent=nan,
            coefficient=nan,
            interval=(nan, nan),
            crossover_depth=nan,
            analytic=Asymptote("divergent", nan, nan),
            agrees=True,
            law=None,
            log_apjn=infinite,
        )
    if isinstance(step, BlockStep) and step.tokens > 1:
        _refuse_slow(step)
    law = law_of(step, q0)
    depths = np.unique(_DECADES.round())
    log_j = amplification(step, [*depths, *DEPTHS], q0)
    profile, at_depths = log_j[: len(depths)], log_j[len(depths) :]
    largest = law.common_exponent if isinstance(law, PowerLaw) else 0.0
    read = _read(depths, profile, largest)
    analytic = None if law is None else _analytic(law)
    agrees = None
    if analytic is not None and law is not None:
        (low, high), slack = read.interval, _slack(step, law)
        span = (law.exponent, law.common_exponent) if isinstance(law, PowerLaw) else (analytic.exponent,) * 2
        agrees = analytic.kind == read.kind and low - slack <= max(span) and high + slack >= min(span)
    return Classification(
        *read,
        analytic,
        agrees,
        law,
        {depth: float(value) for depth, value in zip(DEPTHS, at_depths, strict=True)},
    )


def _norms(network: ResidualStep | Network) -> list[Norm]:
    """Those that are repeated with depth."""
    if isinstance(network, Network):
        return [norm for sublayer in network.last_block for norm in sublayer.entry_norms]
    return [network.norm]


def _refuse_slow(step: BlockStep) -> None:
    """Thousands of averages over two tokens, at variances where only nested panels resolve a function: minutes."""
    for norm in _norms(step.network):
        phi = norm.pointwise.phi if isinstance(norm, PointwiseNorm) else None
        if phi is None or phi.verified:
            continue
        if len(phi.kinks) > (_MOST_KINKS if phi.formula is not None else _MOST_CURVED):
            raise UndescribedError(
                f"function {phi.name!r} must have one kink at most, or {_MOST_KINKS} with straight pieces between, for the class"
                f" of a network of several tokens to be computed, and has {len(phi.kinks)}; the sampled way does without"
            )


class _Read(NamedTuple):
    """What a profile shows, as ``Classification`` has it."""

    kind: Class
    exponent: float
    coefficient: float
    interval: tuple[float, float]
    crossover_depth: float


def _read(depths: np.ndarray, profile: np.ndarray, largest: float) -> _Read:
    """The class of a profile, and how it grows.

    ``largest``: exponent of a power law that the profile may be on its slow way to, through nine decades and more; one whose local
    exponent has not left it behind is a power law.
    """
    if profile[-1] <= 0:
        return _Read("decaying", math.nan, math.nan, (math.nan, math.nan), math.nan)
    x = np.log(depths)
    gain = np.gradient(profile, x)  # d log J / d log L: constant for a power law, ~ L^beta otherwise
    beta = np.gradient(np.log(gain), x)
    x, gain, beta = x[:-2], gain[:-2], beta[:-2]  # one-sided differences at the end are not as good
    last, decade = x > x[-1] - math.log(1e3), x > x[-1] - math.log(10)
    settled, moves = float(np.mean(beta[decade])), float(np.ptp(beta[last]))
    above = np.flatnonzero(beta >= (1 + max(settled, 0.0)) / 2)
    crossover = float(depths[min(above[-1] + 1, len(beta) - 1)] if len(above) else depths[0])
    if settled > 1 - _SETTLED:
        rate = float((profile[-1] - profile[-2]) / (depths[-1] - depths[-2]))
        return _Read("exponential", 1.0, rate, (1 - moves - 1e-6, 1 + moves + 1e-6), math.nan)
    if settled < _SETTLED or gain[-1] < (1 + _SETTLED) * largest:
        zeta, drift = float(gain[-1]), float(np.ptp(gain[last])) + 1e-5 * float(gain[-1])
        return _Read("power", zeta, math.nan, (zeta - drift, zeta + drift), crossover)
    exponent = _extrapolated(x, beta)
    spread = 1.5 * max(abs(exponent - settled), moves) + 1e-6
    coefficient = _coefficient(depths, profile, exponent if abs(exponent - 0.5) > 2e-3 else 0.5)
    return _Read("stretched", exponent, coefficient, (exponent - spread, exponent + spread), crossover)


def _extrapolated(x: np.ndarray, beta: np.ndarray) -> float:
    """The exponent without its leading correction, which falls as a power of depth: Aitken over three decades."""
    a, b, c = (float(np.interp(x[-1] - k * math.log(10), x, beta)) for k in (2, 1, 0))
    bend = c - 2 * b + a
    if abs(bend) < 1e-9 or abs(c - b) > 0.8 * abs(b - a):
        return c  # no geometric approach to be continued
    return c - (c - b) ** 2 / bend


def _coefficient(depths: np.ndarray, profile: np.ndarray, exponent: float) -> float:
    """From the increase over the last decade: constants and logarithms drop out to leading order."""
    first = int(np.searchsorted(depths, depths[-1] / 10))
    grown = depths[-1] ** exponent - depths[first] ** exponent
    return float((profile[-1] - profile[first]) / grown)


def _analytic(law: Law) -> Asymptote:
    """Of two modes the exponent of the one that leads at the greatest depth."""
    if isinstance(law, PowerLaw):
        leads = law.common_exponent if law.takeover_depth < _DECADES[-1] else law.exponent
        return Asymptote("power", leads, math.nan)
    if isinstance(law, StretchedLaw):
        return Asymptote("stretched", law.exponent, law.coefficient)
    return Asymptote("exponential", 1.0, law.rate)


def _slack(step: ResidualStep | BlockStep, law: Law) -> float:
    """How far logarithms, or the correlation of tokens, may keep the exponent from the analytic one at the greatest depth."""
    if isinstance(step, BlockStep):
        return 1e-6 if isinstance(law, ExponentialLaw) else 1e-3
    if isinstance(step.norm, PointwiseNorm):
        logarithms = tail_of(step.norm.pointwise.phi).growth == "logarithmic"
        if logarithms or (isinstance(law, StretchedLaw) and law.exponent == 0.0):
            return 1.5 / math.log(_DECADES[-1])
    return 1e-6
