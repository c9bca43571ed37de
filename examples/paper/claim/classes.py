"""LayerNorm's power law and the stretched exponential of what replaces it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, Outcome
from criticality.phases import ResidualStep, amplification, classify
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Linear, Norm, make_norm, transformer


def decide(seed: int, replacements: Mapping[str, Norm] | None = None) -> Outcome:
    """Class of LayerNorm and of its replacements, one branch and whole transformers."""
    replacements = replacements or {"DyT": make_norm("dyt"), "Derf": make_norm("derf")}
    norms: dict[str, Norm] = {"LayerNorm": LayerNorm(epsilon=0.0), **replacements}
    depths = np.unique(np.geomspace(1, 1000, 40).round())
    found, curves = {}, {}
    for name, norm in norms.items():
        single = classify(ResidualStep(norm))
        block = transformer(norm, Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), 1)
        whole = classify(block, 1.0, rho0=0.3, tokens=197)
        found[name] = (single, whole)
        curves[name] = amplification(ResidualStep(norm), depths.tolist()).tolist()
    as_claimed = all(
        part.kind == ("power" if name == "LayerNorm" else "stretched")
        for name, parts in found.items()
        for part in parts
    )
    agrees = all(part.agrees is not False for parts in found.values() for part in parts)
    sentences = [
        f"{name}: {single.kind} ({single.exponent:.3f}) as one branch, {whole.kind} ({whole.exponent:.3f}) as a"
        " transformer,"
        f" log J(0→1000) = {single.log_apjn[1000]:.1f} and {whole.log_apjn[1000]:.1f}"
        for name, (single, whole) in found.items()
    ]
    return Outcome(
        "holds" if as_claimed and agrees else "fails",
        "Class of x + W norm(x) and of transformer blocks repeated to depth 10^9, by the tail of the function and"
        " by the"
        " profile.",
        "; ".join(sentences) + ".",
        {
            f"{name}_{where}": part.exponent
            for name, parts in found.items()
            for where, part in zip(("one", "whole"), parts, strict=True)
        },
        {"depth": depths.tolist(), "curves": curves},
    )


def draw(axes: Sequence[Axes], data: Data) -> None:
    for style, (name, curve) in enumerate(data["curves"].items()):
        line(axes[0], data["depth"], curve, style, name)
    axes[0].set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"$\log\,J(0 \to L)$")
    axes[0].legend()


CLAIM = Claim(
    key="classes",
    statement="Pre-LayerNorm networks follow a power law of depth, DyT and Derf a stretched exponential.",
    decide=decide,
    verdict="holds",
    breakers=(
        Breaker("a normalization in the place of tanh", lambda seed: decide(seed, {"DyT": LayerNorm(epsilon=0.0)})),
    ),
    draw=draw,
)
