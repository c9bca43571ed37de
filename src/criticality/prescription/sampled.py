"""Solve for alphas, branch scales or gains of any model, run without its weights with fixed seeds: log J is smooth in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from criticality.arguments import checked
from criticality.errors import InputsError
from criticality.measurement import Points
from criticality.measurement.profile import profile
from criticality.measurement.statistics import log_mean
from criticality.models.patterns import Patterns
from criticality.prescription.apply import alphas_from_data
from criticality.prescription.handles import Handles
from criticality.prescription.kinds import Kind
from criticality.prescription.planning import EVERYTHING, alpha_sites, left_out_branch, split_sites
from criticality.prescription.scaling import Scaled, parameter_of
from criticality.prescription.solve import Prescription, edits_of_kind, root_between
from criticality.randomness import forked, seed_everything
from criticality.stream.untouched import untouched
from criticality.theory.edits import Alpha, BranchGain, Edit, WeightGain
from criticality.weightless.building import settle
from criticality.weightless.entries import Player, playing
from criticality.weightless.initializing import Initializer
from criticality.weightless.law import Law
from criticality.weightless.prepared import Factory, Prepared, prepared
from criticality.weightless.weight import RandomWeight

_APART = 100_003
"""Between the seeds that are solved with and those that the result is tried with."""


@dataclass(frozen=True)
class SampledPrescription(Prescription):
    """A prescription that was solved for by running the model without its weights.

    ``log_apjn`` is that of fresh seeds, which the value was not solved with.

    Attributes:
        log_apjn_se: standard error of ``log_apjn`` over the fresh seeds; nan for one.
        log_apjn_solved: of the seeds that were solved with: the target, but for the tolerance.
        tried: values with their ``log J`` on the way, in the order of the values.
        way: ``sampled``.
    """

    log_apjn_se: float
    log_apjn_solved: float
    tried: tuple[tuple[float, float], ...]
    way: str = "sampled"


@checked
def prescribe_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    target: float,
    kind: Kind = "schedule",
    seeds: int = 4,
    *,
    seed: int = 0,
    points: Points = None,
    init: str | Initializer = "own",
    keep: Sequence[str] = (),
    only: Sequence[str] = ("*",),
) -> SampledPrescription:
    """Solve for the alphas of the pointwise norms of any model's streams, the scale of their branches or the gain of their weights.

    Args:
        model: a function that builds it, or itself; put back as it was.
        inputs, points, init: as for ``predict_sampled``.
        target: ``log J(0 -> L)``.
        kind: as for ``prescribe``; for ``branch-scale`` of a function one model is really built, on which it is tried what scales a
            branch.
        seeds: to solve with, and as many fresh ones to try the result with.
        seed: the first.
        keep, only: patterns (names, globs, ``re:...``) of norms, branches or weights that are left, and that are set; the target is
            met with those that are left as they are.

    Raises:
        InputsError: a target that is no finite number, no seeds, or no branch that a weight scales.
        CriticalityError: another kind; a model without pointwise norms on its streams; a target out of reach.
        ValueError: as ``predict_sampled``.
    """
    if not math.isfinite(target):
        raise InputsError(f"target={target!r} must be a finite log J")
    if seeds < 1:
        raise InputsError(f"seeds={seeds!r} must be at least 1")
    patterns = Patterns(keep, only)
    solving = _Ensemble(model, inputs, range(seed, seed + seeds), points, init, (kind,), patterns)
    before = solving.log_apjn()[0]
    tried: dict[float, float] = {}

    def miss(log_value: float) -> float:
        value = math.exp(log_value)
        solving.set(value)
        tried[value] = solving.log_apjn()[0]
        return tried[value] - target

    try:
        log_value = root_between(miss, math.log(1e-3), math.log(1e2), kind, target, 2e-3)
        value = math.exp(log_value)
        alphas = solving.set(value)
        solved = solving.log_apjn()[0]
    finally:
        solving.put_back()
    fresh = _Ensemble(model, inputs, range(seed + _APART, seed + _APART + seeds), points, init, (kind,), patterns)
    reached, error, share = fresh.tried(alphas, value if fresh.offsets else 1.0)
    what = {
        "constant": f"constant alphas of {value:.3f} give",
        "alpha-scale": f"alphas times {value:.3f}, their ratios kept, give",
        "schedule": f"schedule alphas of {value:.3f} / sqrt(q_l) give",
        "branch-scale": f"branches scaled by {value:.3f} give",
        "gain": f"weights of the branches scaled by {value:.3f} give",
    }
    edits = fresh.alpha_edits(alphas) if fresh.has_alphas else fresh.scaling_edits(kind, value)
    why = f"{what[kind]} log J(0->L) = {solved:.2f}"
    return SampledPrescription(
        kind, value, edits, reached, before, target, share, why, error, solved, tuple(sorted(tried.items())), kept=fresh.kept
    )  # fmt: skip


@checked
def least_amplification_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    branch_share: float,
    seeds: int = 4,
    *,
    seed: int = 0,
    points: Points = None,
    init: str | Initializer = "own",
) -> SampledPrescription:
    """``least_amplification`` of any model, run without its weights: a constant alpha and a branch scale.

    Args:
        branch_share: of the variance at the end, in the mean over seeds.
        model, inputs, seeds, seed, points, init: as for ``prescribe_sampled``.

    Raises:
        InputsError: a share outside (0, 1); as ``prescribe_sampled``.
        ValueError: a share out of reach.
    """
    if not 0 < branch_share < 1:
        raise InputsError(f"branch_share={branch_share!r} must be between 0 and 1")
    kinds: tuple[Kind, ...] = ("constant", "branch-scale")
    solving = _Ensemble(model, inputs, range(seed, seed + seeds), points, init, kinds)
    before = solving.log_apjn()[0]
    tried: dict[float, tuple[float, float]] = {}

    def cost(log_alpha: float) -> float:
        solving.write([math.exp(log_alpha)] * len(solving.final))
        near = next(reversed(tried.values()))[0] if tried else 0.0
        found: dict[float, float] = {}

        def excess(step: float) -> float:
            solving.scale(math.exp(near + step))
            found[step], _, share = solving.log_apjn()
            return share - branch_share

        root = root_between(excess, math.log(1e-3) - near, math.log(1e3) - near, "branch-scale", branch_share, 0.02)
        tried[log_alpha] = near + root, found[min(found, key=lambda one: abs(one - root))]
        return tried[log_alpha][1]

    try:
        minimize_scalar(cost, bounds=(math.log(0.05), math.log(5.0)), method="bounded", options={"xatol": 0.1})
    finally:
        solving.put_back()
    log_alpha = min(tried, key=lambda one: tried[one][1])
    (log_scale, solved), alpha = tried[log_alpha], math.exp(log_alpha)
    fresh = _Ensemble(model, inputs, range(seed + _APART, seed + _APART + seeds), points, init, kinds)
    alphas = [alpha] * len(fresh.final)
    reached, error, share = fresh.tried(alphas, math.exp(log_scale))
    why = (
        f"of all alphas and branch scales that leave {branch_share:.0%} of the variance to the branches, those of least log J,"
        f" {solved:.2f}"
    )
    edits = (*fresh.alpha_edits(alphas), *fresh.scaling_edits("branch-scale", math.exp(log_scale)))
    curve = tuple(sorted((math.exp(one), log_apjn) for one, (_, log_apjn) in tried.items()))
    return SampledPrescription(
        "constant", alpha, edits, reached, before, solved, share, why, error, solved, curve
    )  # fmt: skip


class _Ensemble:
    """One model for each seed, on all of which values of one or two kinds are set together."""

    def __init__(
        self,
        model: nn.Module | Factory,
        inputs: Any,
        seeds: Sequence[int],
        points: Points,
        init: str | Initializer,
        kinds: tuple[Kind, ...],
        patterns: Patterns = EVERYTHING,
    ):
        self.ready: list[Prepared] = [prepared(model, inputs, one, init=init) for one in seeds]
        self.handles = [Handles(one.model, one.inputs, one.under) for one in self.ready]
        self.points, self.kinds, self.factor = points, kinds, 1.0
        self._first: dict[tuple[int, str], Law | Tensor] = {}
        self.has_alphas = bool({"constant", "alpha-scale", "schedule"} & {*kinds})
        self.patterns = patterns
        self.offsets: dict[str, float] = {}
        self.branches: tuple[int, ...] = ()
        """Numbers of the branches that are scaled."""
        for kind in kinds:
            offsets, branches = _offsets(model, self.handles[0], kind, seeds[0], patterns)
            self.offsets |= offsets
            self.branches += branches
        every = [alpha_sites(one) for one in self.handles] if self.has_alphas else []
        self.sites = [split_sites(sites, patterns)[0] for sites in every]
        sites, chosen = (every[0], self.sites[0]) if every else ((), [])
        if sites:
            patterns.check([site.name for site in sites], "a norm of the model's streams")
        inner = [site.name for site in sites if not site.final]
        self.kept = tuple(name for name in inner if patterns.left_out(name))
        self.final = [site.final for site in chosen]
        self._numbers = [None if site.final else inner.index(site.name) for site in chosen]
        self._before = [
            [site.alpha(one.model) for site in sites]
            for one, sites in zip(self.ready, self.sites, strict=self.has_alphas)
        ]

    def set(self, value: float) -> list[float]:
        """Set a value in all; the alphas that are now there, in the order of the data flow."""
        if not self.has_alphas:
            self.scale(value)
            return []
        if self.kinds == ("constant",):
            alphas = [value] * len(self.final)
        elif self.kinds == ("alpha-scale",):
            alphas = [value * before for before in self._before[0]]
        else:  # the mean square of what each norm sees, over seeds
            found = [
                alphas_from_data(one, sites, value, under=ready.under)
                for one, sites, ready in zip(self.handles, self.sites, self.ready, strict=True)
            ]
            squares = np.array([[one[site.name] ** -2 for site in self.sites[0]] for one in found])
            alphas = [float(alpha) for alpha in squares.mean(axis=0) ** -0.5]
        self.write(alphas)
        return alphas

    def scale(self, value: float) -> None:
        """``w -> value (offset + w) - offset`` of what there was at first: of random weights, of laws in the place of weights
        that are there, and of other numbers, which models of several seeds may share.
        """
        change, self.factor = value / self.factor, value
        for one in self.ready:
            with torch.no_grad(), playing(Player(one.seed, series=2)):
                for name, offset in self.offsets.items():
                    weight = parameter_of(one.model, name)
                    if isinstance(weight, RandomWeight):
                        weight.mul_(change)
                        weight.add_(offset * (change - 1))
                    elif weight in one.laws:
                        law = self._first.setdefault((one.seed, name), one.laws[weight])
                        assert isinstance(law, Law)
                        shifted = Law(law.sample * value + offset * (value - 1), law.orthogonal)
                        one.laws[weight] = shifted if offset else law.scaled(value)
                    else:
                        before = self._first.setdefault((id(weight), name), weight.detach().clone())
                        assert isinstance(before, Tensor)
                        weight.copy_(before if value == 1.0 else Scaled(offset).value(before, value))
                settle(one.model)

    def write(self, alphas: Sequence[float]) -> None:
        """Set alphas."""
        for one, sites in zip(self.ready, self.sites, strict=self.has_alphas):
            for site, alpha in zip(sites, alphas, strict=True):
                parameter_of(one.model, site.parameter).data.fill_(alpha)

    def put_back(self) -> None:
        """As they were."""
        if self.offsets:
            self.scale(1.0)
        for one, sites, before in zip(self.ready, self.sites, self._before, strict=self.has_alphas):
            for site, alpha in zip(sites, before, strict=True):
                parameter_of(one.model, site.parameter).data.fill_(alpha)

    def tried(self, alphas: Sequence[float], scale: float) -> tuple[float, float, float]:
        """``log_apjn`` with these, after which all is as it was."""
        try:
            if self.offsets:
                self.scale(scale)
            self.write(alphas)
            return self.log_apjn()
        finally:
            self.put_back()

    def alpha_edits(self, alphas: Sequence[float]) -> tuple[Edit, ...]:
        """Alphas of the norms of branches by number, and that of the norms after the last point."""
        inner = [
            Alpha(alpha, number) for alpha, number in zip(alphas, self._numbers, strict=True) if number is not None
        ]
        return (*inner, *[Alpha(alpha, "final") for alpha, last in zip(alphas, self.final, strict=True) if last][:1])

    def scaling_edits(self, kind: Kind, value: float) -> tuple[Edit, ...]:
        """Of all branches or weights, or of those that the patterns choose."""
        if self.patterns == EVERYTHING:
            return edits_of_kind(kind, value)
        if kind == "gain":
            return (WeightGain(value, tuple(self.offsets)),)
        return tuple(BranchGain(value, number) for number in self.branches)

    def log_apjn(self) -> tuple[float, float, float]:
        """``log J(0 -> L)``, its standard error over seeds, and the share of the branches in the final variance."""
        profiles = []
        for one in self.ready:
            with untouched(one.model):
                profiles.append(profile(one.model, one.inputs, self.points, None, 1, one.seed, one.under))
        mean, error = log_mean(np.array([[one.log_apjn[0, 0]] for one in profiles]))
        q = np.mean([one.moments[0] for one in profiles], axis=0)
        return float(mean[0]), float(error[0]), float(1 - q[0] / q[-1])


def _offsets(
    model: nn.Module | Factory, handles: Handles, kind: Kind, seed: int, patterns: Patterns
) -> tuple[dict[str, float], tuple[int, ...]]:
    """Names of the parameters that a kind scales, with what is added to them before, and the numbers of the branches that they
    scale; none for alphas.
    """
    if kind == "gain":
        matrices = handles.matrices()
        patterns.check(matrices, "a weight of the model's branches")
        return dict.fromkeys((name for name in matrices if not patterns.left_out(name)), 0.0), ()
    if kind != "branch-scale":
        return {}, ()
    with forked():
        seed_everything(seed)
        real = model if isinstance(model, nn.Module) else model()
    # Of a pass with weights, as those are in which it is tried what scales a branch.
    handles = Handles(real, handles.inputs)
    branches = handles.branches
    patterns.check(
        [name for one in branches for name in (one.name, *one.parameters)], "a branch of the model's streams"
    )
    rules = handles.scalings(branches)
    usable = [number for number, one in enumerate(branches) if not (one.reason or left_out_branch(one, patterns))]
    found: dict[str, float] = {}
    numbers = []
    for number in usable:
        offsets = {name: rules[name].offset for name in branches[number].parameters}
        known = {name: offset for name, offset in offsets.items() if offset is not None}
        found |= known
        numbers += [number] if known else []
    if not found:
        raise InputsError(
            f"kind={kind!r} must be used with branches that a weight scales, and {type(handles.model).__name__} has none"
        )
    return found, tuple(numbers)
