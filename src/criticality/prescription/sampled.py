"""Solve for alphas, branch scales or gains of any model, run without its weights with fixed seeds: log J is smooth in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.optimize import minimize_scalar
from torch import nn

from criticality.arguments import checked
from criticality.errors import InputsError
from criticality.measurement import Points
from criticality.models.patterns import Patterns
from criticality.prescription.ensemble import Ensemble
from criticality.prescription.kinds import Kind
from criticality.prescription.solve import Prescription, root_between
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory

__all__ = [
    "SampledPrescription",
    "least_amplification_sampled",
    "prescribe_sampled",
]

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
    solving = Ensemble(model, inputs, range(seed, seed + seeds), points, init, (kind,), patterns)
    before = solving.amplification().log_apjn
    found = _solved(solving, kind, target)
    fresh = Ensemble(model, inputs, range(seed + _APART, seed + _APART + seeds), points, init, (kind,), patterns)
    reached = fresh.tried(found.alphas, found.value if fresh.offsets else 1.0)
    return SampledPrescription(
        kind=kind,
        value=found.value,
        edits=fresh.alpha_edits(found.alphas) if fresh.has_alphas else fresh.scaling_edits(kind, found.value),
        log_apjn=reached.log_apjn,
        log_apjn_before=before,
        target=target,
        branch_share=reached.share,
        why=f"{_WHAT[kind].format(found.value)} log J(0->L) = {found.log_apjn:.2f}",
        log_apjn_se=reached.error,
        log_apjn_solved=found.log_apjn,
        tried=found.tried,
        kept=fresh.kept,
    )


_WHAT: dict[Kind, str] = {
    "constant": "constant alphas of {:.3f} give",
    "alpha-scale": "alphas times {:.3f}, their ratios kept, give",
    "schedule": "schedule alphas of {:.3f} / sqrt(q_l) give",
    "branch-scale": "branches scaled by {:.3f} give",
    "gain": "weights of the branches scaled by {:.3f} give",
}


@dataclass(frozen=True)
class _Solved:
    """The value that gives the target, the alphas that come of it, the ``log J`` that it gives, and what was tried on the way."""

    value: float
    alphas: list[float]
    log_apjn: float
    tried: tuple[tuple[float, float], ...]


def _solved(ensemble: Ensemble, kind: Kind, target: float) -> _Solved:
    """The ensemble is put back as it was."""
    tried: dict[float, float] = {}

    def miss(log_value: float) -> float:
        value = math.exp(log_value)
        ensemble.set(value)
        tried[value] = ensemble.amplification().log_apjn
        return tried[value] - target

    try:
        value = math.exp(root_between(miss, math.log(1e-3), math.log(1e2), kind, target, 2e-3))
        alphas = ensemble.set(value)
        return _Solved(value, alphas, ensemble.amplification().log_apjn, tuple(sorted(tried.items())))
    finally:
        ensemble.put_back()


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
    solving = Ensemble(model, inputs, range(seed, seed + seeds), points, init, kinds)
    before = solving.amplification().log_apjn
    tried = _least(solving, branch_share)
    log_alpha = min(tried, key=lambda one: tried[one].log_apjn)
    alpha, scale, solved = math.exp(log_alpha), math.exp(tried[log_alpha].log_scale), tried[log_alpha].log_apjn
    fresh = Ensemble(model, inputs, range(seed + _APART, seed + _APART + seeds), points, init, kinds)
    alphas = [alpha] * len(fresh.final)
    reached = fresh.tried(alphas, scale)
    return SampledPrescription(
        kind="constant",
        value=alpha,
        edits=(*fresh.alpha_edits(alphas), *fresh.scaling_edits("branch-scale", scale)),
        log_apjn=reached.log_apjn,
        log_apjn_before=before,
        target=solved,
        branch_share=reached.share,
        why=f"of all alphas and branch scales that leave {branch_share:.0%} of the variance to the branches, those of least log J,"
        f" {solved:.2f}",
        log_apjn_se=reached.error,
        log_apjn_solved=solved,
        tried=tuple(sorted((math.exp(one), scaling.log_apjn) for one, scaling in tried.items())),
    )


class _Scaling(NamedTuple):
    """The scale of branches that leaves them their share at one alpha, and the ``log J`` there."""

    log_scale: float
    log_apjn: float


def _least(ensemble: Ensemble, branch_share: float) -> dict[float, _Scaling]:
    """By the logarithms of the alphas on the way to the best of them; the ensemble is put back as it was."""
    tried: dict[float, _Scaling] = {}

    def cost(log_alpha: float) -> float:
        ensemble.write([math.exp(log_alpha)] * len(ensemble.final))
        near = next(reversed(tried.values())).log_scale if tried else 0.0
        found: dict[float, float] = {}

        def excess(step: float) -> float:
            ensemble.scale(math.exp(near + step))
            now = ensemble.amplification()
            found[step] = now.log_apjn
            return now.share - branch_share

        root = root_between(excess, math.log(1e-3) - near, math.log(1e3) - near, "branch-scale", branch_share, 0.02)
        tried[log_alpha] = _Scaling(near + root, found[min(found, key=lambda one: abs(one - root))])
        return tried[log_alpha].log_apjn

    try:
        minimize_scalar(cost, bounds=(math.log(0.05), math.log(5.0)), method="bounded", options={"xatol": 0.1})
    finally:
        ensemble.put_back()
    return tried
