"""At finite width log J scatters between seeds, as L/n."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from claim.drawing import Data, line, points
from claim.outcome import Breaker, Claim, Outcome
from criticality.pointwise import Pointwise
from criticality.theory import log_apjn_variance


def decide(
    seed: int,
    variance: Callable[[Pointwise, int, int], float] | None = None,
    ratios: Sequence[tuple[int, int]] = ((8, 256), (16, 256), (32, 256), (32, 128), (48, 128), (32, 64)),
    seeds: int = 120,
) -> Outcome:
    """Variance of ``log J`` over seeds in random networks, against the expansion in 1/width."""
    pointwise = Pointwise("tanh", alpha=0.7)
    expected_of = variance or (lambda p, depth, width: log_apjn_variance(p, depth, width, seed=seed).total)
    measured, expected = [], []
    for depth, width in ratios:
        rng = np.random.default_rng(seed)
        logs = [_one_probe(pointwise, depth, width, rng) for _ in range(seeds)]
        measured.append(float(np.var(logs, ddof=1)))
        expected.append(expected_of(pointwise, depth, width))
    quotient = np.array(measured) / np.array(expected)
    error = math.sqrt(2 / (seeds - 1))
    far = float(np.max(np.abs(quotient - 1)))
    mean = float(np.mean(quotient))
    good = far < 3.5 * error and abs(mean - 1) < 3 * error / math.sqrt(len(ratios)) + 0.05
    one = log_apjn_variance(Pointwise("tanh"), 24, 768, probes=1, seed=seed)
    return Outcome(
        "holds" if good else "fails",
        f"Variance of log J(0→L), one probe, over {seeds} seeds of random networks x + W tanh(0.7x) with L/n from"
        f" {ratios[0][0] / ratios[0][1]:.2g} to {ratios[-1][0] / ratios[-1][1]:.2g}, against the expansion in 1/n.",
        f"Measured over expected variance is {mean:.2f} on average, {quotient.min():.2f} to {quotient.max():.2f},"
        " with a"
        f" standard error of {error:.2f} each. It grows as L/n. At depth 24, width 768, α = 1 one seed and one"
        " probe of one token"
        f" give log J to ±{math.sqrt(one.total):.2f}; {one.seeds_for(0.05)} seeds give it to ±0.05.",
        {"mean_ratio": mean, "largest_deviation": far, "standard_error": error},
        {
            "ratio": [depth / width for depth, width in ratios],
            "measured": measured,
            "measured_se": [m * error for m in measured],
            "expected": expected,
        },
    )


def _one_probe(pointwise: Pointwise, depth: int, width: int, rng: np.random.Generator) -> float:
    x = rng.standard_normal(width)
    weights, slopes = [], []
    for _ in range(depth):
        weight = rng.standard_normal((width, width)) / math.sqrt(width)
        u = pointwise.alpha * x
        weights.append(weight)
        slopes.append(pointwise.alpha * pointwise.phi.derivative(u))
        x = x + weight @ pointwise.phi.value(u)
    gradient = rng.standard_normal(width)
    size = gradient @ gradient
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        gradient = gradient + slope * (weight.T @ gradient)
    return math.log(gradient @ gradient / size)


def draw(axes: Sequence[Axes], data: Data) -> None:
    order = np.argsort(data["ratio"], kind="stable")
    ratio = np.array(data["ratio"])[order]
    line(axes[0], ratio, np.array(data["expected"])[order], 0, "expansion in $1/n$")
    points(axes[0], data["ratio"], data["measured"], data["measured_se"], 1, "random networks")
    axes[0].set(xlabel="$L / n$", ylabel=r"Var $\log\,J(0 \to L)$, one probe")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()


CLAIM = Claim(
    key="finite-width",
    statement="At finite width log J scatters with variance proportional to L/n.",
    decide=decide,
    verdict="holds",
    breakers=(
        Breaker(
            "an expansion with another factor, 2 L / 3 n",
            lambda seed: decide(
                seed, lambda p, depth, width: 2 * depth / width / 3, ((16, 128), (32, 128), (32, 64)), seeds=200
            ),
        ),
    ),
    draw=draw,
)
