"""Solve for alphas of any model: it is run with its weights integrated out, with fixed seeds, which makes log J smooth in alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from criticality.errors import InputsError
from criticality.measurement import Points
from criticality.measurement.profile import profile
from criticality.measurement.statistics import log_mean
from criticality.prescription.apply import alpha_sites, alphas_from_data
from criticality.prescription.handles import Handles
from criticality.prescription.scaling import parameter_of
from criticality.prescription.solve import Kind, Prescription, root_between
from criticality.stream.untouched import untouched
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory, Prepared, prepared

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
) -> SampledPrescription:
    """Solve for the alphas of the pointwise norms of any model's streams.

    Args:
        model: a function that builds it, or itself; put back as it was.
        inputs, points, init: as for ``predict_sampled``.
        target: ``log J(0 -> L)``.
        kind: ``constant`` or ``schedule``.
        seeds: to solve with, and as many fresh ones to try the result with.
        seed: the first.

    Raises:
        InputsError: another kind, a target that is no finite number, or no seeds.
        CriticalityError: a model without pointwise norms on its streams; a target out of reach.
        ValueError: as ``predict_sampled``.
    """
    if kind not in ("constant", "schedule"):
        raise InputsError(
            f"kind={kind!r} must be 'constant' or 'schedule' for a model that is run without its weights; branches of a real model"
            " are scaled by criticality.prescription.tune.tune"
        )
    if not math.isfinite(target):
        raise InputsError(f"target={target!r} must be a finite log J")
    if seeds < 1:
        raise InputsError(f"seeds={seeds!r} must be at least 1")
    solving = _Ensemble(model, inputs, range(seed, seed + seeds), points, init)
    before = solving.log_apjn()[0]
    tried: dict[float, float] = {}

    def miss(log_value: float) -> float:
        value = math.exp(log_value)
        solving.set(kind, value)
        tried[value] = solving.log_apjn()[0]
        return tried[value] - target

    try:
        log_value = root_between(miss, math.log(1e-3), math.log(1e2), kind, target, 2e-3)
        value = math.exp(log_value)
        alphas = solving.set(kind, value)
        solved = solving.log_apjn()[0]
    finally:
        solving.put_back()
    fresh = _Ensemble(model, inputs, range(seed + _APART, seed + _APART + seeds), points, init)
    try:
        fresh.write(alphas)
        reached, error, share = fresh.log_apjn()
    finally:
        fresh.put_back()
    inner = tuple(alpha for alpha, last in zip(alphas, fresh.final, strict=True) if not last)
    final = next((alpha for alpha, last in zip(alphas, fresh.final, strict=True) if last), None)
    why = f"{kind} alphas of {value:.3f}{' / sqrt(q_l)' if kind == 'schedule' else ''} give log J(0->L) = {solved:.2f}"
    return SampledPrescription(
        kind, value, inner, final, 1.0, 1.0, reached, before, target, share, why, error, solved, tuple(sorted(tried.items()))
    )  # fmt: skip


class _Ensemble:
    """One model for each seed, whose alphas are set together."""

    def __init__(
        self, model: nn.Module | Factory, inputs: Any, seeds: Sequence[int], points: Points, init: str | Initializer
    ):
        self.ready: list[Prepared] = [prepared(model, inputs, one, init=init) for one in seeds]
        self.handles = [Handles(one.model, one.inputs, one.under) for one in self.ready]
        self.points = points
        self.sites = [alpha_sites(one) for one in self.handles]
        self.final = [site.final for site in self.sites[0]]
        self._before = [
            [float(parameter_of(one.model, site.parameter).detach().double().mean()) for site in sites]
            for one, sites in zip(self.ready, self.sites, strict=True)
        ]

    def set(self, kind: str, value: float) -> list[float]:
        """Set the alphas of all; what they are now, in the order of the data flow."""
        if kind == "constant":
            alphas = [value] * len(self.final)
        else:  # the mean square of what each norm sees, over seeds
            found = [
                alphas_from_data(one, sites, value, under=ready.under)
                for one, sites, ready in zip(self.handles, self.sites, self.ready, strict=True)
            ]
            squares = np.array([[one[site.name] ** -2 for site in self.sites[0]] for one in found])
            alphas = [float(alpha) for alpha in squares.mean(axis=0) ** -0.5]
        self.write(alphas)
        return alphas

    def write(self, alphas: Sequence[float]) -> None:
        """Set alphas."""
        for one, sites in zip(self.ready, self.sites, strict=True):
            for site, alpha in zip(sites, alphas, strict=True):
                parameter_of(one.model, site.parameter).data.fill_(alpha)

    def put_back(self) -> None:
        """As they were."""
        for one, sites, before in zip(self.ready, self.sites, self._before, strict=True):
            for site, alpha in zip(sites, before, strict=True):
                parameter_of(one.model, site.parameter).data.fill_(alpha)

    def log_apjn(self) -> tuple[float, float, float]:
        """``log J(0 -> L)``, its standard error over seeds, and the share of the branches in the final variance."""
        profiles = []
        for one in self.ready:
            with untouched(one.model):
                profiles.append(profile(one.model, one.inputs, self.points, None, 1, one.seed, one.under))
        mean, error = log_mean(np.array([[one.log_apjn[0, 0]] for one in profiles]))
        q = np.mean([one.moments[0] for one in profiles], axis=0)
        return float(mean[0]), float(error[0]), float(1 - q[0] / q[-1])
