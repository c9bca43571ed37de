"""What alpha does to the class at finite depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, NormOf, Outcome, Verdict, dyt
from criticality.phases import ResidualStep, amplification
from criticality.pointwise import Pointwise
from criticality.theory import Norm, PointwiseNorm


def decide(seed: int, norm_of: NormOf = dyt, depths: Sequence[int] = (12, 48, 192)) -> Outcome:
    """Local exponent ``d log log J / d log L`` at finite depth against alpha."""
    alphas = np.geomspace(0.01, 8.0, 28)
    exponents = np.array([_local_exponents(norm_of(float(alpha)), depths) for alpha in alphas])
    small, least = exponents[0], exponents.min(axis=0)
    lowest = exponents.argmin(axis=0)
    falls = all(np.all(np.diff(exponents[: lowest[i] + 1, i]) < 1e-6) for i in range(len(depths)))
    rise = float(np.max(exponents[-1] - least))
    verdict: Verdict = "fails"
    if falls and np.all(small > 0.95) and np.all(least < 0.7) and rise < 0.2:
        verdict = "holds" if rise < 0.01 else "holds with limits"
    middle = [
        float(np.exp(np.interp(-0.75, -exponents[: k + 1, i], np.log(alphas[: k + 1])))) for i, k in enumerate(lowest)
    ]
    return Outcome(
        verdict,
        f"Local exponent d log log J / d log L of x + W norm(αx) at depths {', '.join(map(str, depths))}, α from"
        " 0.01 to 8.",
        f"It falls from {small.min():.2f} at α = 0.01 (exponential) to {', '.join(f'{v:.2f}' for v in least)} at"
        " these depths (stretched: 1/2), and is"
        f" half-way, 3/4, at α = {', '.join(f'{m:.2f}' for m in middle)}: the deeper, the smaller the α that is"
        " stretched. Limits: it is least near α ="
        f" {', '.join(f'{alphas[k]:.1f}' for k in lowest)} and rises again by up to {rise:.2f} to α = 8, as the"
        " first layers alone then amplify by large factors;"
        " and asymptotically every α is stretched.",
        {"smallest_alpha": float(small.min()), "least_exponent": float(least.max()), "rise": rise},
        {"alpha": alphas.tolist(), "depths": list(depths), "exponent": exponents.T.tolist()},
    )


def _local_exponents(norm: Norm, depths: Sequence[int]) -> list[float]:
    around = [depth * factor for depth in depths for factor in (0.75, 1.25)]
    log_j = amplification(ResidualStep(norm), [round(depth) for depth in around])
    return [
        math.log(log_j[2 * i + 1] / log_j[2 * i]) / math.log(round(depth * 1.25) / round(depth * 0.75))
        for i, depth in enumerate(depths)
    ]


def draw(axes: Sequence[Axes], data: Data) -> None:
    for style, (depth, exponents) in enumerate(zip(data["depths"], data["exponent"], strict=True)):
        line(axes[0], data["alpha"], exponents, style, f"$L = {depth}$")
    for level, name in ((1.0, "exponential"), (0.5, "stretched")):
        axes[0].axhline(level, color="#888888", lw=0.8)
        axes[0].text(data["alpha"][-1], level + 0.012, name, ha="right", fontsize=7.5, color="#555555")
    axes[0].set(xscale="log", xlabel=r"$\alpha$", ylabel=r"$d \log \log J \,/\, d \log L$")
    axes[0].legend(loc="center left")


def linear(alpha: float) -> Norm:
    """``alpha x``."""
    return PointwiseNorm(Pointwise("identity", alpha=alpha))


CLAIM = Claim(
    key="alpha-class",
    statement="At finite depth small α grows exponentially, large α as a stretched exponential.",
    decide=decide,
    verdict="holds with limits",
    breakers=(Breaker("αx, which never saturates", lambda seed: decide(seed, linear)),),
    draw=draw,
)
