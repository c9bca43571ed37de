"""Tune a model that the theory does not know: gains of its branches, block by block, until its susceptibilities are right.

As AutoInit (Doshi, He, Gromov 2023) it needs nothing but passes through the model; the target is a profile of
``log J``, and it stops and says so when it does not get there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from torch import nn

from criticality.arguments import Depth, Number, Positive, Size, Whole, checked, is_real, numbers_within, shown
from criticality.errors import ArgumentError
from criticality.measurement import measure
from criticality.measurement.points import Points, points_asked_for
from criticality.prescription.handles import Handles
from criticality.prescription.levers import Layers, Levers
from criticality.shapes import Float
from criticality.stream.sharded import mean_over_processes
from criticality.theory.edits import BranchGain

__all__ = [
    "Tuning",
    "power_law",
    "tune",
]

_LARGEST_STEP = 4.0


@dataclass(frozen=True)
class Tuning:
    """What tuning did.

    Attributes:
        converged: whether every block came within the tolerance.
        passes: forward and backward passes over the data.
        gains: by which what scales each block's branches was multiplied in all, ``(depth,)``; 1 where it was put back.
        log_susceptibility: at the last measurement, ``(depth,)``.
        target: of each block, ``(depth,)``.
        error: standard error of the last measurement's log susceptibilities over its probes, ``(depth,)``.
        reason: why it stopped, in a sentence.
        moved: names of the parameters that are not what they were, as they were found by comparing all of them.
        untouched: branches that nothing scales, with the reason.
        edits: the gains of the branches by number, to be kept (``write_edits``) and applied elsewhere; empty where they were put
            back, or where ``layers`` said what is scaled.
    """

    converged: bool
    passes: int
    gains: Float[np.ndarray, " depth"]
    log_susceptibility: Float[np.ndarray, " depth"]
    target: Float[np.ndarray, " depth"]
    error: Float[np.ndarray, " depth"]
    reason: str
    moved: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    edits: tuple[BranchGain, ...] = ()


@checked
def power_law(depth: Depth, log_apjn: Positive) -> Float[np.ndarray, " depth"]:
    """Log susceptibilities of each block that add up to ``log_apjn`` and fall as ``1 / l``, as those of pre-LayerNorm do.

    Raises:
        ValueError: a depth below 1, or a ``log_apjn`` that is not finite and positive.
    """
    block = np.arange(depth)
    profile: np.ndarray = np.log((block + 2) / (block + 1)) * log_apjn / math.log(depth + 1)
    return profile


@checked
def tune(
    model: nn.Module,
    inputs: Any,
    target: Positive | Sequence[Positive] | Float[np.ndarray, " depth"],
    *,
    tolerance: Positive = 0.1,
    max_passes: Size = 8,
    probes: Annotated[int, Whole(low=2, high=100_000)] = 4,
    points: Points = None,
    layers: Layers = None,
    blocks: Sequence[nn.Module] | None = None,
    seed: int = 0,
    keep: bool = False,
    strict: bool = False,
) -> Tuning:
    """Scale what scales the branches of each block until the measured log susceptibility of every block hits its target.

    A branch adds to ``chi - 1`` in proportion to the square of its gain, so that each pass sets every block to what that
    predicts, all at once; a few passes take care of what blocks do to those after them.  What scales a branch is found in the
    data flow: its last weight with its biases, or the weight of the norm after it; that it does is tried on the model first.

    Args:
        model: any that ``measure`` takes; changed in place, if and only if it converges.
        inputs: as for ``measure``; ``None`` for those that a model of timm or transformers says that it takes.
        target: ``log J(0 -> L)``, spread by ``power_law``, or a log susceptibility above 0 for each block.
        tolerance: on the log susceptibility of each block, relative to the mean of the targets, beside twice its standard
            error.
        max_passes: measurements at most.
        probes: backward passes to a measurement.
        points: of the stream, one more than blocks, as for ``measure``.
        layers: that are scaled instead; see ``Layers``.
        blocks: modules that ``layers`` are looked for in, where they are not those that the points are named after.
        seed: of the probes.
        keep: leave the weights as they are at the end also when it does not converge.
        strict: refuse a model with a branch that nothing scales beside one that is scaled.

    Raises:
        ValueError: targets that are not above 0 or of another number than blocks; a block in which nothing scales the
            branch, or no layer of those names; as ``measure``. The weights are then as they were, bit for bit.
    """
    handles = Handles(model, inputs)
    asked, _ = points_asked_for(handles.model, handles.found, points)
    depth = len(asked) - 1
    wanted = _wanted(target, depth)
    nodes = [point.node for point in asked]
    names = [point.name for point in asked[1:]]
    levers = Levers.found(handles, nodes) if layers is None else Levers.given(handles.model, layers, blocks, names)
    if strict:
        _check_all_scaled(handles.model, levers)

    def look(number: int) -> tuple[np.ndarray, np.ndarray]:
        return _susceptibilities(handles.model, handles.inputs, points, probes, seed + 1000 * number)

    try:
        tuning = _search(look, levers, wanted, tolerance, max_passes)
    except BaseException:
        levers.put_back()
        raise
    return _kept(tuning, levers) if tuning.converged or keep else _given_up(tuning, levers)


def _check_all_scaled(model: nn.Module, levers: Levers) -> None:
    if levers.untouched:
        raise ArgumentError(
            f"branches of {type(model).__name__} must all be scaled, with strict, and {len(levers.untouched)} would"
            f" be left, such as {levers.untouched[0]}"
        )


def _kept(tuning: Tuning, levers: Levers) -> Tuning:
    gains = tuning.gains
    edits = tuple(BranchGain(float(gains[block]), at) for at, block in levers.blocks.items() if gains[block] != 1.0)
    return replace(tuning, moved=levers.moved(), untouched=levers.untouched, edits=edits)


def _given_up(tuning: Tuning, levers: Levers) -> Tuning:
    levers.put_back()
    reason, gains = f"{tuning.reason}; the weights were put back", np.ones_like(tuning.gains)
    return _kept(replace(tuning, reason=reason, gains=gains), levers)


def _wanted(target: float | Sequence[float] | np.ndarray, depth: int) -> np.ndarray:
    """Log susceptibilities of the blocks, ``(depth,)``."""
    wanted = numbers_within(Number(low=0, above=True), "target", target)
    if is_real(target):
        return power_law(depth, float(wanted))
    if wanted.shape != (depth,):
        raise ArgumentError(
            f"target={shown(target)} must be a log J, or a log susceptibility for each of {depth} blocks"
        )
    return wanted


def _search(
    look: Callable[[int], tuple[np.ndarray, np.ndarray]],
    levers: Levers,
    wanted: Float[np.ndarray, " depth"],
    tolerance: float,
    max_passes: int,
) -> Tuning:
    """Measure and set in turns; what was done, converged or not."""
    gains = np.ones(len(wanted))
    for number in range(1, max_passes + 1):
        log_chi, error = look(number)
        miss = np.abs(log_chi - wanted)

        def stopped(reason: str, converged: bool = False) -> Tuning:
            return Tuning(converged, number, gains, log_chi, wanted, error, reason)  # noqa: B023  (called in this round)

        if np.all(miss <= tolerance * wanted.mean() + 2 * error):
            return stopped("every block is within the tolerance", True)
        worst = int(np.argmax(miss - 2 * error))
        if number == max_passes:
            return stopped(
                f"block {worst} has a log susceptibility of {log_chi[worst]:.3f} ± {error[worst]:.3f} for a target of"
                f" {wanted[worst]:.3f} after {number} passes"
            )
        contracting = np.flatnonzero(log_chi <= 0)
        if len(contracting):
            block = int(contracting[0])
            return stopped(
                f"block {block} has a log susceptibility of {log_chi[block]:.3f}: its branch adds nothing that a gain could change"
            )
        steps = np.clip(np.sqrt(np.expm1(wanted) / np.expm1(log_chi)), 1 / _LARGEST_STEP, _LARGEST_STEP)
        gains = gains * steps
        levers.set(gains)
    raise AssertionError("the last round returns")


def _susceptibilities(
    model: nn.Module, inputs: Any, points: Points, probes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over probes of ``log J(l -> L) - log J(l + 1 -> L)``, each ``(depth,)``."""
    profiles = np.array(
        [measure(model, inputs, points=points, seed=seed + probe).log_apjn.values for probe in range(probes)]
    )
    profiles = mean_over_processes(model, profiles)
    steps = profiles[:, :-1] - profiles[:, 1:]
    return steps.mean(axis=0), steps.std(axis=0, ddof=1) / math.sqrt(probes)
