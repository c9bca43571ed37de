"""Whether bounded, monotone functions are the best pointwise ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, Outcome, Verdict
from criticality.phases import ZOO, ResidualStep, amplification, classify
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.reports import COLOURS, MARKERS
from criticality.theory import PointwiseNorm


class Row(NamedTuple):
    """One function: whether it is bounded and monotone, and the class and size of ``log J`` with it, at depths 48 and 1000."""

    name: str
    bounded: bool
    monotone: bool
    kind: str
    exponent: float
    log_apjn_48: float
    log_apjn_1000: float


def bumped_tanh() -> PointwiseFunction:
    """Bounded, not monotone, and its slope decays."""
    return PointwiseFunction(
        "tanh + bump",
        lambda x: np.tanh(x) + 1.5 * x * np.exp(-x * x),
        lambda x: np.cosh(np.minimum(np.abs(x), 300.0)) ** -2.0 + 1.5 * (1 - 2 * x * x) * np.exp(-x * x),
    )


def decide(seed: int, functions: Sequence[PointwiseFunction] | None = None) -> Outcome:
    """Whether bounded, monotone functions are the best, and the only ones to be subcritical rather than"
    " exponential."""
    functions = functions or [*(f for name, f in ZOO.items() if name != "exproot"), bumped_tanh()]
    x = np.linspace(-60, 60, 240_001)
    rows: list[Row] = []
    for function in functions:
        found = classify(ResidualStep(PointwiseNorm(Pointwise(function))))
        far = function.value(np.array([-1e9, 1e9]))
        bounded = bool(np.max(np.abs(far)) < 10 and np.max(np.abs(function.value(x))) < 10)
        monotone = bool(np.all(np.diff(function.value(x)) >= -1e-12))
        at_depths = found.log_apjn[48], found.log_apjn[1000]
        rows.append(Row(function.name, bounded, monotone, found.kind, found.exponent, *at_depths))
    better = [row for row in rows if row.kind == "power"]
    without = [row for row in rows if row.kind == "stretched" and not (row.bounded and row.monotone)]
    both = [row for row in rows if row.bounded and row.monotone]
    exceptions = [row for row in both if row.kind == "exponential"]
    verdict: Verdict = "fails" if better or without or exceptions else "holds"
    best = min(better, key=lambda row: row.exponent, default=None)
    power = (
        f"unbounded, sublinear ones with a power law: {', '.join(row.name for row in better)}"
        if better
        else "none better"
    )
    exponent = f" (the least exponent is {best.exponent:.2f}, of {best.name})" if best else ""
    data: dict[str, Any] = {"rows": [list(row) for row in rows]}
    by_name = {function.name: function for function in functions}
    crossing: dict[str, Any] = {"depth_from": math.inf, "depth_from_same_slope": math.inf}
    if {"tanh", "power0.666667"} <= by_name.keys():
        crossing = _crossing(by_name["tanh"], by_name["power0.666667"])
    data |= crossing
    return Outcome(
        verdict,
        f"Class of {len(rows)} functions of every kind: bounded or not, monotone or not.",
        f"Of those bounded and monotone, {len(both)} of"
        f" {len(both) + len(exceptions)} are stretched exponentials. But there are"
        f" {power}{exponent}; and"
        f" functions that are stretched without being both: {', '.join(row.name for row in without) or 'none'}. What"
        " decides is"
        " the tail: a square integrable slope makes log J a stretched exponential, one that falls as |x|^(p-1) with"
        " 1/2 < p < 1 a power law. At finite depth bounded functions may"
        " still be the better: at α = 1 the two-thirds power has the smaller log J only from depth"
        f" {crossing['depth_from']:.0f} on, and from {crossing['depth_from_same_slope']:.0f} on if it is as steep at zero as"
        " tanh. All this at an α that is the same in every layer.",
        {
            "power_laws": len(better),
            "stretched_otherwise": len(without),
            "crossing_depth": crossing["depth_from"],
            "crossing_depth_same_slope": crossing["depth_from_same_slope"],
        },
        data,
    )


def _crossing(bounded: PointwiseFunction, unbounded: PointwiseFunction) -> dict[str, Any]:
    """Depth from which the unbounded function amplifies less: at the same alpha, and at the same slope at zero."""
    depths = np.unique(np.geomspace(1, 1e6, 120).round()).tolist()
    alphas = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0]
    slope = float(bounded.derivative(np.zeros(1))[0] / unbounded.derivative(np.zeros(1))[0])

    def excess(alpha: float, other: float, at: Sequence[float]) -> np.ndarray:
        """``log J`` of the unbounded function minus that of the bounded one."""
        curves = [
            amplification(ResidualStep(PointwiseNorm(Pointwise(phi, alpha=a))), at)
            for phi, a in ((unbounded, other), (bounded, alpha))
        ]
        difference: np.ndarray = curves[0] - curves[1]
        return difference

    def first(alpha: float, other: float) -> float:
        worse = np.flatnonzero(excess(alpha, other, depths) >= 0)
        if not len(worse):
            return float(depths[0])
        if worse[-1] + 1 == len(depths):
            return math.inf
        low, high = depths[worse[-1]], depths[worse[-1] + 1]
        while high - low > 1:
            between = np.unique(np.linspace(low, high, 33).round()).tolist()
            last = np.flatnonzero(excess(alpha, other, between) >= 0)[-1]
            low, high = between[last], between[last + 1]
        return float(high)

    same = [first(alpha, alpha) for alpha in alphas]
    steep = [first(alpha, alpha * slope) for alpha in alphas]
    one = alphas.index(1.0)
    return {
        "alpha": alphas,
        "crossing": same,
        "crossing_same_slope": steep,
        "depth_from": same[one],
        "depth_from_same_slope": steep[one],
    }


_KINDS = ((True, True), (True, False), (False, True), (False, False))


def draw(axes: Sequence[Axes], data: Data) -> None:
    rows = sorted((Row(*row) for row in data["rows"]), key=lambda row: -row.log_apjn_1000)
    heights = {row.name: number for number, row in enumerate(rows)}
    for style, kind in enumerate(_KINDS):
        chosen = [row for row in rows if (row.bounded, row.monotone) == kind]
        label = f"{'bounded' if kind[0] else 'unbounded'}, {'monotone' if kind[1] else 'not monotone'}"
        axes[0].plot(
            [row.log_apjn_1000 for row in chosen],
            [heights[row.name] for row in chosen],
            ls="",
            marker=MARKERS[style],
            color=COLOURS[style],
            mfc="white",
            label=label,
        )
    axes[0].set_yticks(range(len(rows)), [f"{row.name} ({row.kind})" for row in rows], fontsize=6)
    axes[0].set(xscale="log", xlabel=r"$\log\,J(0 \to 1000)$ at $\alpha = 1$")
    axes[0].legend(fontsize=6.5)
    line(axes[1], data["alpha"], data["crossing"], 0, r"same $\alpha$")
    line(axes[1], data["alpha"], data["crossing_same_slope"], 1, "same slope at 0")
    axes[1].set(xscale="log", yscale="log", xlabel=r"$\alpha$ of tanh", ylabel="depth from which $p = 2/3$ wins")
    axes[1].set_xticks(data["alpha"], [f"{alpha:g}" for alpha in data["alpha"]])
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    axes[1].legend()


CLAIM = Claim(
    key="boundedness",
    statement="Subcritical is the best that pointwise functions can be, and takes boundedness and monotonicity.",
    decide=decide,
    verdict="fails",
    breakers=(
        Breaker(
            "no functions but tanh, erf, identity and sin",
            lambda seed: decide(seed, [ZOO[name] for name in ("tanh", "erf", "identity", "sin")]),
            verdict="holds",
        ),
    ),
    draw=draw,
    panels=2,
)
