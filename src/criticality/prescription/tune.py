"""Tune a model that the theory does not know: gains of its branches, block by block, until its susceptibilities are right.

As AutoInit (Doshi, He, Gromov 2023) it needs nothing but passes through the model; the target is a profile of
``log J``, and it stops and says so when it does not get there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from criticality.measurement import measure
from criticality.measurement.points import Points
from criticality.prescription.apply import find_blocks, output_layers

_LARGEST_STEP = 4.0


@dataclass(frozen=True)
class Tuning:
    """What tuning did.

    Attributes:
        converged: whether every block came within the tolerance.
        passes: forward and backward passes over the data.
        gains: by which the output layers of each block were multiplied in all.
        log_susceptibility: measured after the last change, ``(depth,)``.
        target: of each block, ``(depth,)``.
        error: standard error of the last measurement's log susceptibilities over its probes, ``(depth,)``.
        reason: why it stopped, in a sentence.
    """

    converged: bool
    passes: int
    gains: Float[np.ndarray, " depth"]
    log_susceptibility: Float[np.ndarray, " depth"]
    target: Float[np.ndarray, " depth"]
    error: Float[np.ndarray, " depth"]
    reason: str


def power_law(depth: int, log_apjn: float) -> Float[np.ndarray, " depth"]:
    """Log susceptibilities of each block that add up to ``log_apjn`` and fall as ``1 / l``, as those of pre-LayerNorm do.

    Raises:
        ValueError: a depth below 1, or a ``log_apjn`` that is not finite and positive.
    """
    if depth < 1:
        raise ValueError(f"depth={depth!r} must be at least 1")
    if not (math.isfinite(log_apjn) and log_apjn > 0):
        raise ValueError(f"log_apjn={log_apjn!r} must be a finite number above 0")
    block = np.arange(depth)
    profile: np.ndarray = np.log((block + 2) / (block + 1)) * log_apjn / math.log(depth + 1)
    return profile


def tune(
    model: nn.Module,
    inputs: Any,
    target: float | Sequence[float],
    *,
    tolerance: float = 0.1,
    max_passes: int = 8,
    probes: int = 4,
    points: Points = None,
    layers: Callable[[nn.Module], list[tuple[str, nn.Module]]] = output_layers,
    blocks: Sequence[nn.Module] | None = None,
    seed: int = 0,
) -> Tuning:
    """Multiply the output layers of each block until the measured log susceptibility of every block hits its target.

    A branch adds to ``chi - 1`` in proportion to the square of its gain, so that each pass sets every block to what that
    predicts, all at once; a few passes take care of what blocks do to those after them.

    Args:
        model: any module with a list of blocks; changed in place.
        inputs: as for ``measure``.
        target: ``log J(0 -> L)``, spread by ``power_law``, or a log susceptibility above 0 for each block.
        tolerance: on the log susceptibility of each block, relative to the mean of the targets, beside twice its standard
            error.
        max_passes: measurements at most.
        probes: backward passes to a measurement.
        points: of the stream, one more than blocks, as for ``measure``.
        layers: finds the layers of a block that are to be scaled.
        blocks: where they are not in a list that is found.
        seed: of the probes.

    Raises:
        ValueError: targets that are not above 0 or of another number than blocks; layers that are not found; as ``measure``.
    """
    parts = list(blocks) if blocks is not None else list(find_blocks(model)[1])
    wanted = power_law(len(parts), target) if isinstance(target, (int, float)) else np.asarray(target, dtype=float)
    if wanted.shape != (len(parts),) or not np.all(np.isfinite(wanted) & (wanted > 0)):
        raise ValueError(
            f"target={target!r} must be a log J, or a log susceptibility above 0 for each of {len(parts)} blocks"
        )
    if max_passes < 1 or probes < 2:
        raise ValueError(f"max_passes={max_passes!r} must be at least 1 and probes={probes!r} at least 2")
    scaled = [[module for _, module in layers(part)] for part in parts]
    gains = np.ones(len(parts))
    log_chi, error = wanted, wanted
    reason = ""
    for number in range(1, max_passes + 1):
        log_chi, error = _susceptibilities(model, inputs, points, probes, seed + 1000 * number)
        miss = np.abs(log_chi - wanted)
        if np.all(miss <= tolerance * wanted.mean() + 2 * error):
            return Tuning(True, number, gains, log_chi, wanted, error, "every block is within the tolerance")
        worst = int(np.argmax(miss - 2 * error))
        reason = (
            f"block {worst} has a log susceptibility of {log_chi[worst]:.3f} ± {error[worst]:.3f} for a target of"
            f" {wanted[worst]:.3f} after {number} passes"
        )
        if number == max_passes:
            break
        contracting = log_chi <= 0
        if contracting.any():
            block = int(np.flatnonzero(contracting)[0])
            return Tuning(
                False,
                number,
                gains,
                log_chi,
                wanted,
                error,
                f"block {block} has a log susceptibility of {log_chi[block]:.3f}: its branch adds nothing that a gain could change",
            )
        steps = np.clip(np.sqrt(np.expm1(wanted) / np.expm1(log_chi)), 1 / _LARGEST_STEP, _LARGEST_STEP)
        for modules, step in zip(scaled, steps, strict=True):
            _scale(modules, float(step))
        gains = gains * steps
    return Tuning(False, max_passes, gains, log_chi, wanted, error, reason)


def _susceptibilities(
    model: nn.Module, inputs: Any, points: Points, probes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over probes of ``log J(l -> L) - log J(l + 1 -> L)``, each ``(depth,)``."""
    profiles = np.array(
        [measure(model, inputs, points=points, seed=seed + probe).log_apjn.values for probe in range(probes)]
    )
    steps = profiles[:, :-1] - profiles[:, 1:]
    return steps.mean(axis=0), steps.std(axis=0, ddof=1) / math.sqrt(probes)


def _scale(modules: Sequence[nn.Module], factor: float) -> None:
    with torch.no_grad():
        for module in modules:
            for part in (getattr(module, "weight", None), getattr(module, "bias", None)):
                if isinstance(part, Tensor):
                    part.mul_(factor)
