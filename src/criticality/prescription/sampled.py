"""Solve for alphas, branch scales or gains of any model, run without its weights with the same random numbers each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from criticality.errors import InputsError, NotFiniteError
from criticality.measurement import Points
from criticality.measurement.profile import profile
from criticality.prescription.handles import Handles
from criticality.prescription.scaling import Scaled, parameter_of
from criticality.prescription.solve import KINDS, PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS, Kind, Prescription, root, why
from criticality.stream.find import eager
from criticality.stream.inputs import arguments, call
from criticality.stream.recording import tensors_in
from criticality.stream.untouched import untouched
from criticality.weightless.building import settle
from criticality.weightless.entries import AT_LEAST, Player, playing
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory, Prepared, prepared

_FRESH = 1000
"""By how much the seeds of the check are above those that were solved with."""


@dataclass(frozen=True)
class SampledPrescription(Prescription):
    """A prescription solved for with a few seeds, and what it gives with others.

    ``log_apjn``, ``log_apjn_before`` and ``branch_share`` are means over the seeds that were solved with.

    Attributes:
        log_apjn_fresh, log_apjn_fresh_se: mean and standard error of ``log J(0 -> L)`` over as many seeds that were not.
        seeds: how many.
    """

    log_apjn_fresh: float
    log_apjn_fresh_se: float
    seeds: int


@dataclass(frozen=True)
class Reached:
    """What a value gives.

    Attributes:
        log_apjn: ``log J(0 -> L)`` for each seed.
        branch_share: ``1 - q_0 / q_L``, mean over seeds.
        alphas: of the norms of the blocks; empty where they are left alone.
        final_alpha: of the norms after the last block.
    """

    log_apjn: np.ndarray
    branch_share: float
    alphas: tuple[float, ...]
    final_alpha: float | None


class SampledTheory:
    """Models without weights, one for each seed, on which values are tried.

    What can be set is read once off a model that is really built.

    Args:
        model: builds it; weights are allocated once.
        inputs: as for ``predict_sampled``.
        seeds: which.
        init, points: as for ``predict_sampled``.

    Raises:
        InputsError: no seeds.
        ValueError: as ``predict_sampled``.
    """

    def __init__(
        self,
        model: Factory,
        inputs: Any,
        seeds: Sequence[int],
        *,
        init: str | Initializer = "own",
        points: Points = None,
        at_least: int = AT_LEAST,
    ):
        if not seeds:
            raise InputsError(f"seeds={seeds!r} must be at least one seed")
        self.points = points
        self.ready = [prepared(model, inputs, seed, init=init, at_least=at_least) for seed in seeds]
        with torch.random.fork_rng():
            torch.manual_seed(seeds[0])
            self.handles = Handles(model(), self.ready[0].inputs)
        self._rules: dict[str, Scaled] | None = None

    def at(self, kind: Kind, value: float) -> Reached:
        """Set a value, run all seeds and put back what was there.

        Raises:
            InputsError: a model without what this kind sets.
        """
        if kind in ("constant", "schedule"):
            return self._with_alphas(kind, value)
        names = self._scaled(kind)
        for one in self.ready:
            _scale(one, names, value)
        try:
            return self._reached((), None)
        finally:
            for one in self.ready:
                _scale(one, names, 1 / value)

    def as_it_is(self) -> Reached:
        """With nothing set."""
        return self._reached((), None)

    def _reached(self, alphas: tuple[float, ...], final: float | None) -> Reached:
        log_apjn, shares = [], []
        for one in self.ready:
            with untouched(one.model):
                found = profile(one.model, one.inputs, self.points, None, 1, one.seed, one.under)
            log_apjn.append(float(found.log_apjn[0, 0]))
            shares.append(1 - float(found.moments[0, 0] / found.moments[0, -1]))
        return Reached(np.array(log_apjn), float(np.mean(shares)), alphas, final)

    def _with_alphas(self, kind: Kind, value: float) -> Reached:
        sites = self.handles.alphas
        if not any(not site.final for site in sites):
            raise InputsError(
                f"kind={kind!r} must be used with pointwise norms, and {type(self.handles.model).__name__} has none in its blocks"
            )
        before = [
            {site.parameter: parameter_of(one.model, site.parameter).detach().clone() for site in sites}
            for one in self.ready
        ]
        try:
            alphas = {site.parameter: value for site in sites} if kind == "constant" else self._schedule(value)
            for one in self.ready:
                _fill(one, alphas)
            inner = tuple(alphas[site.parameter] for site in sites if not site.final)
            final = [alphas[site.parameter] for site in sites if site.final]
            mean = float(np.mean(final)) if final else None
            for one in self.ready:
                _fill(one, {site.parameter: mean for site in sites if site.final and mean is not None})
            return self._reached(inner, mean)
        finally:
            for one, values in zip(self.ready, before, strict=True):
                with torch.no_grad():
                    for name, number in values.items():
                        parameter_of(one.model, name).copy_(number)

    def _schedule(self, value: float) -> dict[str, float]:
        """``value / sqrt(q)``, ``q`` the mean over seeds of what each norm sees with all before it set."""
        squares = [self._on_the_way(one, value) for one in self.ready]
        return {name: value / math.sqrt(float(np.mean([q[name] for q in squares]))) for name in squares[0]}

    def _on_the_way(self, one: Prepared, value: float) -> dict[str, float]:
        found: dict[str, float] = {}

        def at(parameter: str, inside: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                x = next(tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point())
                q = float(x.detach().double().square().mean())
                if not (math.isfinite(q) and q > 0):
                    raise NotFiniteError(
                        f"norm of {parameter!r} must see a finite stream that is not 0, got a mean square of {q}"
                    )
                found.setdefault(parameter, q)
                with torch.no_grad():
                    parameter_of(module, inside).fill_(value / math.sqrt(found[parameter]))

            return hook

        sites = self.handles.alphas
        hooks = [
            one.model.get_submodule(site.name).register_forward_pre_hook(
                at(site.parameter, site.parameter.removeprefix(f"{site.name}.")), with_kwargs=True
            )
            for site in sites
        ]
        try:
            with untouched(one.model), torch.no_grad(), eager(), one.under():
                call(one.model, arguments(one.inputs))
        finally:
            for hook in hooks:
                hook.remove()
        missing = [site.name for site in sites if site.parameter not in found]
        if missing:
            raise InputsError(f"norm {missing[0]!r} must be reached by the forward pass, and is not")
        return found

    def _scaled(self, kind: Kind) -> dict[str, float]:
        """Names of parameters that are scaled, with their offsets."""
        if kind == "gain":
            return dict.fromkeys(self.handles.matrices(), 0.0)
        if self._rules is None:
            self._rules = self.handles.scalings(self.handles.branches)
        usable = [one for one in self.handles.branches if one.parameters and not one.reason]
        rules = {name: self._rules[name].offset for one in usable for name in one.parameters}
        known = {name: offset for name, offset in rules.items() if offset is not None}
        if not known:
            raise InputsError(
                f"kind={kind!r} must be used with branches that a weight scales, and {type(self.handles.model).__name__} has none"
            )
        return known


def _fill(one: Prepared, values: dict[str, float]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameter_of(one.model, name).fill_(value)


def _scale(one: Prepared, names: dict[str, float], factor: float) -> None:
    """``w -> factor (offset + w) - offset``, of weights that are there or not."""
    with torch.no_grad(), playing(Player(one.seed)):
        for name, offset in names.items():
            weight = parameter_of(one.model, name)
            weight.mul_(factor)
            if offset:
                weight.add_(offset * (factor - 1))
        settle(one.model)


def prescribe_sampled(
    model: Factory,
    inputs: Any,
    target: float | str,
    kind: Kind = "schedule",
    *,
    seeds: int = 4,
    seed: int = 0,
    reference: Factory | None = None,
    init: str | Initializer = "own",
    points: Points = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[SampledPrescription, list[dict[str, float]]]:
    """Solve for the value of one kind of prescription of any model.

    The random numbers of the models are the same at each value, so that ``log J`` is a smooth function of it and its mean over the
    seeds is solved by Brent's method; that mean is as far from the ensemble's as ``seeds`` allow, which fresh seeds tell.

    Args:
        model: builds it.
        inputs: as for ``predict_sampled``.
        target: ``log J(0 -> L)``, or ``"preln"``: that of ``reference``, its tokens as they are.
        kind: as for ``prescribe``.
        seeds, seed: how many and the first; the fresh ones are 1000 above.
        reference: builds the same model with LayerNorm.
        init, points: as for ``predict_sampled``.
        progress: called with the number of each evaluation.

    Returns:
        The prescription, and what values around it give: ``value``, ``log_apjn``, ``branch_share``.

    Raises:
        InputsError: a kind that the model has nothing for; a target that is no number above 0.
        ValueError: a target out of reach; as ``predict_sampled``.
    """
    if kind not in KINDS:
        raise InputsError(f"kind={kind!r} must be one of {', '.join(map(repr, KINDS))}")
    chosen = range(seed, seed + seeds)
    settings: dict[str, Any] = {"init": init, "points": points}
    wanted = _wanted(target, reference, inputs, chosen, settings)
    theory = SampledTheory(model, inputs, chosen, **settings)
    tried: dict[float, Reached] = {}

    def miss(log_value: float) -> float:
        tried[log_value] = theory.at(kind, math.exp(log_value))
        if progress is not None:
            progress(len(tried))
        return float(tried[log_value].log_apjn.mean()) - wanted

    before = theory.as_it_is()
    log_value = root(miss, kind, wanted, tolerance=1e-3)
    reached = tried.get(log_value) or theory.at(kind, math.exp(log_value))
    value = math.exp(log_value)
    fresh = _fresh(
        SampledTheory(model, inputs, range(seed + _FRESH, seed + _FRESH + seeds), **settings), kind, reached, value
    )
    found = SampledPrescription(
        kind,
        value,
        reached.alphas,
        reached.final_alpha,
        value if kind == "branch-scale" else 1.0,
        value if kind == "gain" else 1.0,
        float(reached.log_apjn.mean()),
        float(before.log_apjn.mean()),
        wanted,
        reached.branch_share,
        why(kind, value, target, wanted),
        float(fresh.mean()),
        float(fresh.std(ddof=1)) / math.sqrt(len(fresh)) if len(fresh) > 1 else math.nan,
        seeds,
    )
    curve = [_row(theory.at(kind, value * factor), value * factor) for factor in (0.5, 0.71, 1.41, 2)]
    return found, sorted([*curve, _row(reached, value)], key=lambda row: row["value"])


def _wanted(target: float | str, reference: Factory | None, inputs: Any, seeds: Sequence[int], settings: Any) -> float:
    if target in (PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS):
        if reference is None:
            raise InputsError(f"target={target!r} must be a number where no reference with LayerNorm is given")
        ready = (prepared(reference, inputs, seed, init=settings["init"]) for seed in seeds)
        values = [profile(one.model, one.inputs, settings["points"], None, 1, one.seed, one.under) for one in ready]
        return float(np.mean([one.log_apjn[0, 0] for one in values]))
    try:
        wanted = float(target)
    except ValueError:
        wanted = math.nan
    if not (math.isfinite(wanted) and wanted > 0):
        raise InputsError(f"target={target!r} must be a log J above 0, 'preln' or 'preln-tokens'")
    return wanted


def _fresh(theory: SampledTheory, kind: Kind, reached: Reached, value: float) -> np.ndarray:
    """``log J`` of other seeds with the very alphas that were found."""
    if not reached.alphas:
        return theory.at(kind, value).log_apjn
    sites = theory.handles.alphas
    inner = [site.parameter for site in sites if not site.final]
    alphas = dict(zip(inner, reached.alphas, strict=True))
    if reached.final_alpha is not None:
        alphas |= {site.parameter: reached.final_alpha for site in sites if site.final}
    for one in theory.ready:
        _fill(one, alphas)
    return theory.as_it_is().log_apjn


def _row(reached: Reached, value: float) -> dict[str, float]:
    return {"value": value, "log_apjn": float(reached.log_apjn.mean()), "branch_share": reached.branch_share}
