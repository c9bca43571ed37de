"""Models of several seeds, run without their weights, on all of which alphas, branch scales or gains are set together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

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
from criticality.prescription.solve import edits_of_kind
from criticality.randomness import forked, seed_everything
from criticality.stream.untouched import untouched
from criticality.theory.edits import Alpha, BranchGain, Edit, WeightGain
from criticality.weightless.building import settle
from criticality.weightless.entries import Player, playing
from criticality.weightless.initializing import Initializer
from criticality.weightless.law import Law
from criticality.weightless.prepared import Factory, Prepared, prepared
from criticality.weightless.weight import RandomWeight


class Amplification(NamedTuple):
    """``log J(0 -> L)``, its standard error over seeds, and the share of the branches in the final variance."""

    log_apjn: float
    error: float
    share: float


class Ensemble:
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
        self.sites = [split_sites(sites, patterns).chosen for sites in every]
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
        """Set alphas, the same ones in all."""
        self._fill([alphas] * len(self.sites))

    def _fill(self, alphas: Sequence[Sequence[float]]) -> None:
        """Set those of each model."""
        for one, sites, given in zip(self.ready, self.sites, alphas, strict=self.has_alphas):
            for site, alpha in zip(sites, given, strict=True):
                parameter_of(one.model, site.parameter).data.fill_(alpha)

    def put_back(self) -> None:
        """As they were."""
        if self.offsets:
            self.scale(1.0)
        self._fill(self._before)

    def tried(self, alphas: Sequence[float], scale: float) -> Amplification:
        """With these, after which all is as it was."""
        try:
            if self.offsets:
                self.scale(scale)
            self.write(alphas)
            return self.amplification()
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

    def amplification(self) -> Amplification:
        """Of the models as they are set now."""
        profiles = []
        for one in self.ready:
            with untouched(one.model):
                profiles.append(profile(one.model, one.inputs, self.points, None, 1, one.seed, one.under))
        mean, error = log_mean(np.array([[one.log_apjn[0, 0]] for one in profiles]))
        q = np.mean([one.moments[0] for one in profiles], axis=0)
        return Amplification(float(mean[0]), float(error[0]), float(1 - q[0] / q[-1]))


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
