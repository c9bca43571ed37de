"""LayerNorm's power law and the stretched exponential of what replaces it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from claim.drawing import Data, line
from claim.outcome import Breaker, Claim, Outcome, Verdict
from criticality.phases import BlockStep, ResidualStep, amplification, classify
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Linear, Network, Norm, make_norm, transformer

CORRELATION, TOKENS = 0.3, (16, 197, 4096)


def decide(seed: int, replacements: Mapping[str, Norm] | None = None) -> Outcome:
    """Class of LayerNorm and of its replacements, one branch and whole transformers."""
    replacements = replacements or {"DyT": make_norm("dyt"), "Derf": make_norm("derf")}
    norms: dict[str, Norm] = {"LayerNorm": LayerNorm(epsilon=0.0), **replacements}
    depths = np.unique(np.geomspace(1, 1000, 40).round())
    found, curves = {}, {}
    for name, norm in norms.items():
        single = classify(ResidualStep(norm))
        whole = classify(_block(norm), 1.0, rho0=CORRELATION, tokens=197)
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
    powers, local = np.unique(np.geomspace(2, 1e8, 80).round()), {}
    steps = {f"blocks, {t} tokens": BlockStep(_block(norms["LayerNorm"]), t, CORRELATION) for t in TOKENS}
    local["one branch"] = local_exponent(ResidualStep(norms["LayerNorm"]), powers)
    local |= {name: local_exponent(step, powers) for name, step in steps.items()}
    at_12, at_1000 = local_exponent(steps["blocks, 197 tokens"], [12, 1000])
    one_from = float(powers[np.flatnonzero(np.array(local["blocks, 197 tokens"]) >= 1)[0]])
    limit = abs(at_12 - found["LayerNorm"][1].exponent) > 0.1
    verdict: Verdict = "fails"
    if as_claimed and agrees:
        verdict = "holds with limits" if limit else "holds"
    return Outcome(
        verdict,
        "Class of x + W norm(x) and of transformer blocks repeated to depth 10^9, by the tail of the function and"
        " by the"
        " profile.",
        "; ".join(sentences)
        + f". Limits: the LayerNorm transformer's power is that of great depth. Its local exponent, d log J / d log L, is"
        f" {at_12:.2f} at depth 12, {at_1000:.2f} at depth 1000, and reaches 1 near depth {one_from:.0e}.",
        {
            f"{name}_{where}": part.exponent
            for name, parts in found.items()
            for where, part in zip(("one", "whole"), parts, strict=True)
        }
        | {"local_at_12": at_12, "local_at_1000": at_1000, "one_from": one_from},
        {"depth": depths.tolist(), "curves": curves, "local_depth": powers.tolist(), "local": local},
    )


def _block(norm: Norm) -> Network:
    return transformer(norm, Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), 1)


def local_exponent(step: ResidualStep | BlockStep, depths: Sequence[float] | np.ndarray) -> list[float]:
    """``d log J / d log L``, over a tenth of the depth to both sides (one layer at least)."""
    pairs = [(d - max(1, round(d / 10)), d + max(1, round(d / 10))) for d in depths]
    log_j = amplification(step, [depth for pair in pairs for depth in pair]).reshape(-1, 2)
    return [float((b - a) / np.log(high / low)) for (a, b), (low, high) in zip(log_j, pairs, strict=True)]


def draw(axes: Sequence[Axes], data: Data) -> None:
    for style, (name, curve) in enumerate(data["curves"].items()):
        line(axes[0], data["depth"], curve, style, name)
    axes[0].set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"$\log\,J(0 \to L)$")
    axes[0].legend()
    for style, (name, exponents) in enumerate(data["local"].items()):
        line(axes[1], data["local_depth"], exponents, style, name)
    axes[1].axvspan(12, 100, color="#888888", alpha=0.15, lw=0)
    axes[1].set(
        xscale="log", xlabel="depth $L$", ylabel=r"$d \log J \,/\, d \log L$", ylim=(0.3, 1.1), title="LayerNorm"
    )
    axes[1].legend(fontsize=7.5)


CLAIM = Claim(
    key="classes",
    statement="Pre-LayerNorm networks follow a power law of depth, DyT and Derf a stretched exponential.",
    decide=decide,
    verdict="holds with limits",
    breakers=(
        Breaker("a normalization in the place of tanh", lambda seed: decide(seed, {"DyT": LayerNorm(epsilon=0.0)})),
    ),
    draw=draw,
    panels=2,
)
