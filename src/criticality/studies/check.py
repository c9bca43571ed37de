"""One model checked: phase, amplification, worst blocks, what to expect and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import xarray as xr

from criticality.arguments import Finite, Samples, Seed, Size, checked
from criticality.errors import CriticalityError, UndescribedError
from criticality.measurement import measure_ensemble
from criticality.models import ModelSpec, model_spec
from criticality.phases import Classification, classify
from criticality.phases.noisy import GEOMETRIC, classify_profiles
from criticality.prescription.solve import PRE_LAYER_NORM, log_apjn_of_target, prescribe
from criticality.studies.classify import classify_sampled
from criticality.theory import LayerNorm, Network, SymmetricKernel, TokenKernel, propagate, propagate_between
from criticality.theory.edits import alphas_of
from criticality.theory.norms import NoNorm, Norm, PointwiseNorm

__all__ = [
    "CheckUp",
    "check",
    "check_up",
]

_MARGIN = 0.5
_OF_LAYER_NORM = f"the same network with LayerNorm, plus {_MARGIN:g}"
_REPEATS = 192
"""Depth to which blocks are repeated where only that tells the class."""


@dataclass(frozen=True)
class CheckUp:
    """What was found out about a model.

    Attributes:
        model, depth, norms: what it is.
        phase: class of growth with depth.
        log_apjn, log_apjn_se: ``log J(0 -> L)``; no error where it is predicted.
        source: ``theory`` or ``measurement``.
        log_apjn_layer_norm: of the same network with LayerNorm, tokens alike; ``None`` where that is not known.
        budget, within_budget: the verdict.
        budget_of: what the budget is, in words.
        worst_blocks: numbers of the three blocks that amplify most, and by which factor each.
        expect: in a sentence.
        prescription: in a sentence.
    """

    model: str
    depth: int
    norms: str
    phase: str
    log_apjn: float
    log_apjn_se: float | None
    source: str
    log_apjn_layer_norm: float | None
    budget: float
    within_budget: bool
    budget_of: str
    worst_blocks: tuple[tuple[int, float], ...]
    expect: str
    prescription: str

    def record(self) -> dict[str, Any]:
        """As it is printed."""
        return asdict(self)


@checked
def check_up(
    model: str,
    changes: Mapping[str, Any],
    *,
    budget: Finite | None = None,
    seeds: Size = 2,
    samples: Samples = 16,
    seed: Seed = 0,
) -> CheckUp:
    """Check a model by name.

    Args:
        model, changes: as ``model_spec`` takes them.
        budget: largest ``log J(0 -> L)`` [default: that of the same network with LayerNorm, plus 0.5; a network with
            LayerNorm is its own reference; where LayerNorm cannot take the place of the model's norms, that of ``x + W LN(x)``
            of as many blocks, ``log(depth + 1)``, plus 0.5].
        seeds: to measure a model with that the exact theory does not describe.
        samples, seed: of the theory, and of what is random.

    Raises:
        ValueError: as ``model_spec`` and ``measure``.
    """
    description = model_spec(model, **changes)
    try:
        network, inputs = description.read(seed)
        profile = propagate(network, inputs, samples=samples, seed=seed)
    except UndescribedError:
        return _measured(model, description, budget, seeds, seed)
    blocks = profile.sel(block=np.arange(network.depth + 1.0))
    log_apjn = float(blocks.log_apjn[0])
    layer_norm = log_apjn_of_target(network, inputs, PRE_LAYER_NORM)
    normed = all(isinstance(norm, LayerNorm) for norm in _entries(network))
    reference = log_apjn if normed else layer_norm  # its class token's share is LayerNorm's own
    allowed = reference + _MARGIN if budget is None else budget
    return CheckUp(
        model=model,
        depth=network.depth,
        norms=_norms(network),
        phase=_phase(network, inputs, seed),
        log_apjn=log_apjn,
        log_apjn_se=None,
        source="theory",
        log_apjn_layer_norm=layer_norm,
        budget=allowed,
        within_budget=log_apjn <= allowed,
        budget_of="as given" if budget is not None else _OF_LAYER_NORM,
        worst_blocks=_worst(blocks),
        expect=_expect(network, log_apjn, allowed),
        prescription=_advice(network, inputs, log_apjn, allowed, samples, seed),
    )


def _measured(model: str, description: ModelSpec, budget: float | None, seeds: int, seed: int) -> CheckUp:
    """By measurement, for a model that the exact theory does not describe."""
    profile = _profile(description, seeds, seed)
    log_apjn, depth = float(profile.log_apjn[0]), profile.sizes["block"] - 1
    reference, allowed, budget_of = None, budget, "as given"
    if allowed is None:
        try:
            reference = _layer_norm_reference(description, seeds, seed)
            allowed, budget_of = reference + _MARGIN, _OF_LAYER_NORM
        except CriticalityError as refusal:  # its norms are of another kind, or it has none
            allowed = math.log(depth + 1) + _MARGIN
            budget_of = f"{depth} blocks of x + W LN(x), plus {_MARGIN:g}, as {refusal}"
    return CheckUp(
        model=model,
        depth=depth,
        norms=description.norm or "its own",
        phase=_repeated(description, seeds, seed),
        log_apjn=log_apjn,
        log_apjn_se=float(profile.log_apjn_se[0]),
        source=f"measured, {seeds} seed{'s' * (seeds > 1)}",
        log_apjn_layer_norm=reference,
        budget=allowed,
        within_budget=log_apjn <= allowed,
        budget_of=budget_of,
        worst_blocks=_worst(profile),
        expect=_size(log_apjn, allowed),
        prescription="none needed"
        if log_apjn <= allowed
        else "tune the gains of its blocks: criticality.tune(model, batch, target=budget)",
    )


def _profile(description: ModelSpec, seeds: int, seed: int) -> xr.Dataset:
    return measure_ensemble(
        lambda _: description.build(),
        description.inputs(seed),
        range(seed, seed + seeds),
        points=description.points,
        probes=2,
    )


def _layer_norm_reference(description: ModelSpec, seeds: int, seed: int) -> float:
    """``log J`` of the same model with LayerNorm.

    Raises:
        CriticalityError: LayerNorm cannot take the place of its norms.
    """
    changed: Any = replace(description, norm="ln", alpha=None)  # type: ignore[type-var]
    return float(_profile(changed, seeds, seed).log_apjn[0])


def _entries(network: Network) -> list[Norm]:
    return [norm for part in network.sublayers for norm in part.entry_norms]


def _norms(network: Network) -> str:
    found = []
    for norm in _entries(network):
        if isinstance(norm, PointwiseNorm):
            found.append(norm.pointwise.phi.name)
        else:
            found.append({LayerNorm: "LayerNorm or RMSNorm", NoNorm: "none"}.get(type(norm), type(norm).__name__))
    alphas = alphas_of(network)
    span = ""
    if alphas:
        low, high = min(alphas), max(alphas)
        span = f", alpha {low:.3g}" + (f" to {high:.3g}" if high > low else "")
    return f"{', '.join(dict.fromkeys(found))}{span}; {network.sublayers[0].placement}-norm"


def _phase(network: Network, inputs: list[TokenKernel], seed: int) -> str:
    """In words; of a network that tells tokens apart by repeating its blocks."""
    mean = SymmetricKernel.mean_of(inputs)
    try:
        found = classify(network, float(mean.q), rho0=float(mean.p / mean.q), tokens=mean.tokens)
    except UndescribedError:
        return f"{_in_words(_classify_repeated(network, inputs[0], seed))}; seen by repeating its blocks to depth {_REPEATS}"
    except CriticalityError as refusal:
        return f"not classified: {refusal}"
    late = found.kind == "stretched" and found.crossover_depth > network.depth
    near = f"; still exponential at this depth (until block {found.crossover_depth:.0f})" if late else ""
    return _in_words(found) + near


def _classify_repeated(network: Network, kernel: TokenKernel, seed: int) -> Classification:
    """By the exact theory of tokens, for one input: its blocks one after the other, again and again, for two draws of scores."""
    each = network.sublayers_per_block
    parts = tuple(islice(cycle(network.sublayers), _REPEATS * each))
    deep = replace(network, sublayers=parts)
    depths = [depth for depth in GEOMETRIC if depth <= _REPEATS]
    runs = [
        propagate_between(deep, kernel, start=0, targets=depths, samples=2, seed=seed + number).log_apjn
        for number in range(2)
    ]
    return classify_profiles(depths, np.array([run.sel(target_block=depths).values for run in runs]), steps=False)


def _repeated(description: ModelSpec, seeds: int, seed: int) -> str:
    """The class of growth of a model whose blocks are repeated with fresh weights, in words."""
    try:
        repeated = classify_sampled(
            description.create,
            description.inputs(seed),
            range(seed, seed + seeds),
            depth=_REPEATS,
            init=description.init,
        )
    except CriticalityError as refusal:
        return f"not classified: {refusal}"
    return f"{_in_words(repeated.found)}; seen by repeating its blocks to depth {_REPEATS}"


def _in_words(found: Classification) -> str:
    names = {"power": f"power law, J ~ L^{found.exponent:.2f}", "decaying": "ordered: gradients decay"}
    names["stretched"] = f"stretched exponential, log J ~ L^{found.exponent:.2f}"
    names["exponential"] = f"exponential, log J ~ {found.coefficient:.3g} L"
    return names.get(found.kind, found.kind)


def _worst(profile: xr.Dataset) -> tuple[tuple[int, float], ...]:
    steps = np.diff(-profile.log_apjn.values)
    return tuple((int(block), float(np.exp(steps[block]))) for block in np.argsort(-steps)[:3])


def _size(log_apjn: float, allowed: float) -> str:
    factor = f"mean squared gradients at the input are e^{log_apjn:.1f} = {math.exp(min(log_apjn, 700)):.3g} x those at the end"
    if log_apjn < -1:
        return f"{factor}: they vanish, and early blocks learn slowly"
    return f"{factor}" + (
        "" if log_apjn <= allowed else ": early blocks move most, watch for divergence at large learning rates"
    )


def _expect(network: Network, log_apjn: float, allowed: float) -> str:
    sentence = _size(log_apjn, allowed)
    if alphas_of(network) and log_apjn > allowed:
        sentence += "; a smaller alpha or a schedule lowers it"
    return sentence


def _advice(
    network: Network, inputs: list[TokenKernel], log_apjn: float, allowed: float, samples: int, seed: int
) -> str:
    if log_apjn <= allowed:
        return "none needed"
    pointwise = bool(alphas_of(network))
    try:
        found = prescribe(
            network, inputs, allowed, "schedule" if pointwise else "branch-scale", samples=samples, seed=seed
        )
    except CriticalityError as refusal:
        return f"none found: {refusal}"
    if pointwise:
        span = f"{max(found.alphas):.3f} (first) to {min(found.alphas):.3f} (last)"
        return f"alpha_l = {found.value:.3f} / sqrt(K_l), {span}, gives log J = {found.log_apjn:.2f}: criticality prescribe"
    return f"branches x {found.value:.3f} give log J = {found.log_apjn:.2f}: criticality prescribe --kind branch-scale"


check = check_up
"""By the name of the verb, as ``criticality.check``."""
