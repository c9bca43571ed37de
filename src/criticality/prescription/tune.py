"""Tune a model that the theory does not know: gains of its branches, block by block, until its susceptibilities are right.

As AutoInit (Doshi, He, Gromov 2023) it needs nothing but passes through the model; the target is a profile of
``log J``, and it stops and says so when it does not get there.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from criticality.arguments import Depth, Positive, Size, Whole, checked
from criticality.errors import ArgumentError
from criticality.measurement import measure
from criticality.measurement.points import Points, points_asked_for
from criticality.models.patterns import matches
from criticality.prescription.handles import Handles
from criticality.prescription.scaling import Scaled, parameter_of, put_back, saved_values, write
from criticality.stream.sharded import at_rest, gathered, mean_over_processes
from criticality.theory.edits import BranchGain

_LARGEST_STEP = 4.0

Layers = Callable[[nn.Module], list[tuple[str, nn.Module]]] | Sequence[str] | None
"""Which layers of a block are scaled: names of them in the block (or patterns), or a function that returns them."""


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
    target: float | Sequence[float],
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
    levers = _Levers.found(handles, nodes) if layers is None else _Levers.given(handles.model, layers, blocks, names)
    if strict and levers.untouched:
        raise ArgumentError(
            f"branches of {type(handles.model).__name__} must all be scaled, with strict, and {len(levers.untouched)} would"
            f" be left, such as {levers.untouched[0]}"
        )

    def look(number: int) -> tuple[np.ndarray, np.ndarray]:
        return _susceptibilities(handles.model, handles.inputs, points, probes, seed + 1000 * number)

    before = _fingerprints(handles.model)
    try:
        tuning = _search(look, levers, wanted, tolerance, max_passes)
    except BaseException:
        levers.put_back()
        raise
    reason, gains = tuning.reason, tuning.gains
    if not tuning.converged and not keep:
        levers.put_back()
        reason, gains = f"{reason}; the weights were put back", np.ones(depth)
    after = _fingerprints(handles.model)
    moved = tuple(name for name, value in after.items() if value != before[name])
    strange = sorted({*moved} - {name for block in levers.rules for name in block})
    if strange:
        levers.put_back()
        raise ArgumentError(
            f"parameter {strange[0]!r} must stay as it was, and moved while {type(model).__name__} was tuned"
        )
    return Tuning(
        tuning.converged,
        tuning.passes,
        gains,
        tuning.log_susceptibility,
        wanted,
        tuning.error,
        reason,
        moved,
        levers.untouched,
        tuple(BranchGain(float(gains[block]), at) for at, block in levers.blocks.items() if gains[block] != 1.0),
    )


def _wanted(target: float | Sequence[float], depth: int) -> np.ndarray:
    """Log susceptibilities of the blocks, ``(depth,)``."""
    wanted = power_law(depth, target) if isinstance(target, (int, float)) else np.asarray(target, dtype=float)
    if wanted.shape != (depth,) or not np.all(np.isfinite(wanted) & (wanted > 0)):
        raise ArgumentError(
            f"target={target!r} must be a log J, or a log susceptibility above 0 for each of {depth} blocks"
        )
    return wanted


def _search(
    look: Callable[[int], tuple[np.ndarray, np.ndarray]],
    levers: _Levers,
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


class _Levers:
    """What is scaled in each block, and what it was.

    Args:
        model: that is tuned.
        rules: for each block by the name of a parameter how it scales.
        untouched: branches that nothing scales.
        blocks: of each branch by its number.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: list[dict[str, Scaled]],
        untouched: tuple[str, ...] = (),
        blocks: Mapping[int, int] | None = None,
    ):
        self.model, self.rules, self.untouched, self.blocks = model, rules, untouched, blocks or {}
        names = dict.fromkeys(name for block in rules for name in block)
        self._saved = saved_values(parameter_of(model, name) for name in names)
        self._before = {name: parameter_of(model, name).detach().clone() for name in names}

    def set(self, gains: Float[np.ndarray, " depth"]) -> None:
        """Write what scales each block by its gain, relative to what was there at first."""
        write(
            self.model,
            {
                name: rule.value(self._before[name], float(gain))
                for block, gain in zip(self.rules, gains, strict=True)
                for name, rule in block.items()
            },
        )

    def put_back(self) -> None:
        """All of it, bit for bit."""
        put_back(self._saved)

    @classmethod
    def found(cls, handles: Handles, nodes: Sequence[int]) -> _Levers:
        """By the data flow: of each block between two points what scales its branches."""
        rules: list[dict[str, Scaled]] = [{} for _ in nodes[1:]]
        reasons: list[list[str]] = [[] for _ in nodes[1:]]
        tried = handles.scalings(handles.branches)
        blocks: dict[int, int] = {}
        for number, branch in enumerate(handles.branches):
            block = bisect_left(nodes, branch.end) - 1
            if branch.chain or branch.start < nodes[0] or not 0 <= block < len(rules):
                continue
            kept = [name for name in branch.parameters if tried[name].offset is None]
            if kept or branch.reason:
                why = branch.reason or f"twice {kept[0]!r} is not twice the branch, nor is twice 1 more than it"
                reasons[block].append(f"{branch.name}: {why}")
                continue
            rules[block] |= {name: tried[name] for name in branch.parameters}
            blocks[number] = block
        for number, block_rules in enumerate(rules):
            if not block_rules:
                why = f" ({reasons[number][0]})" if reasons[number] else ""
                raise ArgumentError(
                    f"block {number} of {type(handles.model).__name__} must have a weight that scales its branch, and none was"
                    f" found{why}; for others give layers=['name in block', ...]"
                )
        return cls(handles.model, rules, tuple(reason for block in reasons for reason in block), blocks)

    @classmethod
    def given(
        cls, model: nn.Module, layers: Layers, blocks: Sequence[nn.Module] | None, names: Sequence[str]
    ) -> _Levers:
        """By names or a function of the user's: weight and bias of the layers."""
        whole = {id(parameter): name for name, parameter in model.named_parameters()}
        rules: list[dict[str, Scaled]] = []
        for number, block in enumerate(_modules(model, names) if blocks is None else blocks):
            modules = (
                [module for _, module in layers(block)] if callable(layers) else _named(block, layers or (), number)
            )
            tensors = [getattr(module, part, None) for module in modules for part in ("weight", "bias")]
            rules.append({whole[id(one)]: Scaled(0.0) for one in tensors if isinstance(one, Tensor)})
            if not rules[-1]:
                raise ArgumentError(f"block {number} must have a layer with a weight among {layers!r}, and has none")
        if len(rules) != len(names):
            raise ArgumentError(f"blocks must be {len(names)}, one between any two points, and are {len(rules)}")
        return cls(model, rules)


def _modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The blocks that points are named after."""
    modules = dict(model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ArgumentError(
            f"point {missing[0]!r} must be the output of a module for layers to be found in it: give blocks=[module, ...], too"
        )
    return [modules[name] for name in names]


def _named(block: nn.Module, patterns: Sequence[str], number: int) -> list[nn.Module]:
    named = [(name, module) for name, module in block.named_modules() if name]
    for pattern in patterns:
        if not any(matches(pattern, name) for name, _ in named):
            raise ArgumentError(
                f"block {number} ({type(block).__name__}) must have a layer named {pattern!r}, and has"
                f" {', '.join(repr(name) for name, _ in named)}"
            )
    return [module for name, module in named if any(matches(pattern, name) for pattern in patterns)]


def _fingerprints(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Two numbers of each parameter that change when it does."""
    at_rest(model)
    found = {}
    for name, parameter in model.named_parameters():
        values = gathered(parameter.detach()).double()
        found[name] = (repr(float(values.sum())), repr(float(values.square().sum())))
    return found


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
