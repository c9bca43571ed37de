"""What is left of a network at the alpha that amplifies as little as LayerNorm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import brentq

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, NormOf, Outcome, Verdict, dyt
from criticality.phases import ResidualStep, amplification
from criticality.pointwise import Pointwise
from criticality.reports import COLOURS
from criticality.theory import LayerNorm, Norm, PointwiseNorm, SymmetricKernel, propagate, resnet


def decide(seed: int, norm_of: NormOf = dyt, depth: int = 48) -> Outcome:
    """What remains of the network, measured by LayerNorm's, at the alpha that amplifies no more than LayerNorm."""
    target = float(amplification(ResidualStep(LayerNorm(epsilon=0.0)), [depth])[0])
    alphas = np.geomspace(0.01, 4.0, 40)
    log_j = np.array([float(amplification(ResidualStep(norm_of(float(a))), [depth])[0]) for a in alphas])
    costs = np.array([_costs(norm_of(float(a)), depth) for a in alphas])
    reference = _costs(LayerNorm(epsilon=0.0), depth)
    share, effective, departure = costs.T
    matched = math.nan
    if log_j[0] < target < log_j[-1]:
        log_alpha = brentq(
            lambda y: float(amplification(ResidualStep(norm_of(math.exp(y))), [depth])[0]) - target,
            math.log(alphas[0]),
            math.log(alphas[-1]),
        )
        matched = math.exp(log_alpha)
    at = _costs(norm_of(matched), depth) if math.isfinite(matched) else Costs(math.nan, math.nan, math.nan)
    one = _costs(norm_of(1.0), depth)
    less = _costs(norm_of(matched / 10), depth) if math.isfinite(matched) else Costs(math.nan, math.nan, math.nan)
    rises = bool(np.all(np.diff(effective) > -1e-9))
    verdict: Verdict = "fails"
    if rises and min(at.share / reference.share, at.effective_depth / reference.effective_depth) < 0.8:
        verdict = "holds"
    elif rises and less.share < 0.5 * reference.share:
        verdict = "holds with limits"
    return Outcome(
        verdict,
        f"At initialization, depth {depth}: share of the branches in the final variance, effective depth (how often"
        " the stream is"
        " rewritten, Σ branch variance / stream variance), and departure from a linear network (largest change of a"
        " correlation), against α.",
        f"The α that amplifies as little as LayerNorm (log J = {target:.2f}) is {matched:.3f}, and costs little: there the branches"
        f" hold {100 * at.share:.0f} per cent of the final variance (LayerNorm: {100 * reference.share:.0f},"
        f" α = 1: {100 * one.share:.0f}), and the effective depth is {at.effective_depth:.2f}"
        f" ({reference.effective_depth:.2f}, {one.effective_depth:.2f}). Below it the cost grows: a tenth of it"
        f" leaves {100 * less.share:.1f} per cent of the variance and an effective depth of {less.effective_depth:.2f}."
        f" The departure from linear is {at.departure:.3f} at the matched α and {one.departure:.3f} at α = 1, but"
        f" {abs(reference.departure):.3f} with LayerNorm, whose"
        " branches are linear here: it says nothing about what a norm costs.",
        {
            "matched_alpha": matched,
            "share": at.share,
            "effective_depth": at.effective_depth,
            "departure": at.departure,
            "share_of_a_tenth": less.share,
        },
        {
            "alpha": alphas.tolist(),
            "log_apjn": log_j.tolist(),
            "share": share.tolist(),
            "effective_depth": effective.tolist(),
            "departure": departure.tolist(),
            "target": target,
            "matched": matched,
        },
    )


class Costs(NamedTuple):
    """Branch share of the final variance, effective depth, and departure from linear."""

    share: float
    effective_depth: float
    departure: float


def _costs(norm: Norm, depth: int) -> Costs:
    """Of ``x + W norm(x)``."""
    network = resnet(norm, depth)
    correlations = (-0.9, -0.5, 0.0, 0.5, 0.9)
    profiles = [propagate(network, SymmetricKernel.of(1.0, rho)) for rho in correlations]
    q = profiles[0].q.values
    departure = max(abs(float(p.correlation[-1]) - rho) for p, rho in zip(profiles, correlations, strict=True))
    return Costs(float(1 - q[0] / q[-1]), float(np.sum(np.diff(q) / q[1:])), departure)


def draw(axes: Sequence[Axes], data: Data) -> None:
    largest = max(data["effective_depth"])
    line(axes[0], data["alpha"], data["share"], 0, "branch share of variance")
    line(axes[0], data["alpha"], np.array(data["effective_depth"]) / largest, 1, f"effective depth / {largest:.1f}")
    line(axes[0], data["alpha"], data["departure"], 2, "departure from linear")
    axes[0].axvline(data["matched"], color="#888888", lw=1)
    axes[0].set(xscale="log", xlabel=r"$\alpha$", ylabel="what is left at initialization")
    axes[0].legend(fontsize=7.5)
    line(axes[1], data["alpha"], data["log_apjn"], 0, "DyT")
    axes[1].axhline(data["target"], color=COLOURS[1], lw=1.2, label="LayerNorm")
    axes[1].axvline(data["matched"], color="#888888", lw=1)
    axes[1].set(xscale="log", yscale="log", xlabel=r"$\alpha$", ylabel=r"$\log\,J(0 \to L)$")
    axes[1].legend()


def rescaled(alpha: float) -> Norm:
    """``tanh(alpha x) / alpha``: small alpha leaves the branch its size."""
    return PointwiseNorm(Pointwise("tanh", alpha=alpha, gamma=1 / alpha))


CLAIM = Claim(
    key="small-alpha",
    statement="One cannot just pick a smaller α: it costs the network its branches.",
    decide=decide,
    verdict="holds with limits",
    breakers=(Breaker("tanh(αx) / α, whose branches keep their size", lambda seed: decide(seed, rescaled)),),
    draw=draw,
    panels=2,
)
