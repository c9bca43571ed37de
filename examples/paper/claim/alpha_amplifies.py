"""Whether larger alpha amplifies more, at any depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, NormOf, Outcome, dyt
from criticality.phases import BlockStep, ResidualStep, amplification
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Linear, transformer


def decide(seed: int, norm_of: NormOf = dyt) -> Outcome:
    """``log J`` against alpha at every depth, one branch and transformer."""
    alphas, depths = np.geomspace(0.01, 10.0, 25), [1, 4, 12, 48, 192, 1000]
    single = np.array([amplification(ResidualStep(norm_of(float(alpha))), depths) for alpha in alphas])

    def block(alpha: float) -> BlockStep:
        network = transformer(norm_of(alpha), Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), 1)
        return BlockStep(network, 197, 0.3)

    few = alphas[::4]
    whole = np.array([amplification(block(float(alpha)), depths[1:5]) for alpha in few])
    rising = [float(np.mean(np.diff(values, axis=0) > 0)) for values in (single, whole)]
    good = min(rising) == 1.0
    ratio = float(single[np.searchsorted(alphas, 1.0), 3] / single[np.searchsorted(alphas, 0.5), 3])
    return Outcome(
        "holds" if good else "fails",
        "log J(0→L) of x + W tanh(αx), and of transformer blocks with attention, for α from 0.01 to 10 at depths 1"
        " to 1000.",
        f"log J rises with α in {100 * rising[0]:.0f} per cent of all steps of one-branch networks and in"
        f" {100 * rising[1]:.0f} per cent of"
        f" those of transformers; from α near 0.5 to 1 it grows by a factor of {ratio:.2f} at depth 48. That it"
        " also makes training"
        " diverge is a matter of the stability study, not decided here.",
        {"rising_single": rising[0], "rising_transformer": rising[1]},
        {"alpha": alphas.tolist(), "depths": depths, "log_apjn": single.T.tolist()},
    )


def draw(axes: Sequence[Axes], data: Data) -> None:
    for style, (depth, values) in enumerate(zip(data["depths"], data["log_apjn"], strict=True)):
        line(axes[0], data["alpha"], values, style, f"$L = {depth}$")
    axes[0].set(xscale="log", yscale="log", xlabel=r"$\alpha$", ylabel=r"$\log\,J(0 \to L)$")
    axes[0].legend()


CLAIM = Claim(
    key="alpha-amplifies",
    statement="Larger α amplifies gradients more.",
    decide=decide,
    verdict="holds",
    breakers=(
        Breaker("LayerNorm, which α does not change", lambda seed: decide(seed, lambda alpha: LayerNorm(epsilon=0.0))),
    ),
    draw=draw,
)
