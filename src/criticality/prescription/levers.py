"""What is scaled in each block of a model: found in the data flow, or named; written, watched and put back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from criticality.errors import ArgumentError
from criticality.models.patterns import check_patterns, matches
from criticality.prescription.handles import BranchHandle, Handles
from criticality.prescription.scaling import Scaled, parameter_of, put_back, saved_values, write
from criticality.shapes import Float
from criticality.stream.sharded import at_rest, gathered

Layers = Callable[[nn.Module], list[tuple[str, nn.Module]]] | Sequence[str] | None
"""Which layers of a block are scaled: names of them in the block (or patterns), or a function that returns them."""


class Levers:
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
        self._seen = _fingerprints(model)

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

    def moved(self) -> tuple[str, ...]:
        """Names of the parameters that are not what they were, as found by comparing all of them.

        Raises:
            CriticalityError: one that nothing here scales is among them; all is put back.
        """
        now = _fingerprints(self.model)
        moved = tuple(name for name, value in now.items() if value != self._seen[name])
        strange = sorted({*moved} - {name for block in self.rules for name in block})
        if strange:
            self.put_back()
            raise ArgumentError(
                f"parameter {strange[0]!r} must stay as it was, and moved while {type(self.model).__name__} was tuned"
            )
        return moved

    @classmethod
    def found(cls, handles: Handles, nodes: Sequence[int]) -> Levers:
        """By the data flow: of each block between two points what scales its branches."""
        rules: list[dict[str, Scaled]] = [{} for _ in nodes[1:]]
        reasons: list[list[str]] = [[] for _ in nodes[1:]]
        tried = handles.scalings(handles.branches)
        blocks: dict[int, int] = {}
        shared = _shared(handles, nodes)
        first = set(handles.branches)
        for branch in handles.uses:
            block = _block_of(branch, nodes)
            if block is not None and branch not in first:
                reasons[block] += [f"{branch.name}: {shared[name]}" for name in branch.parameters if name in shared][:1]
        for number, branch in enumerate(handles.branches):
            block = _block_of(branch, nodes)
            if block is None:
                continue
            tied = [shared[name] for name in branch.parameters if name in shared]
            if tied:
                reasons[block].append(f"{branch.name}: {tied[0]}")
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
    ) -> Levers:
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
        for name in {name for block in rules for name in block}:
            having = [number for number, block in enumerate(rules) if name in block]
            if len(having) > 1:
                raise ArgumentError(f"layers={layers!r} must name weights of one block each, and {_tied(name, having)}")
        return cls(model, rules)


def _block_of(branch: BranchHandle, nodes: Sequence[int]) -> int | None:
    """Number of the block between two points that a branch of the first stream is in."""
    block = bisect_left(nodes, branch.end) - 1
    return None if branch.chain or branch.start < nodes[0] or not 0 <= block < len(nodes) - 1 else block


def _shared(handles: Handles, nodes: Sequence[int]) -> dict[str, str]:
    """Parameters that scale branches of several blocks, so that no block has a gain of its own by them; in words."""
    used: dict[str, dict[int, None]] = {}
    for branch in handles.uses:
        block = _block_of(branch, nodes)
        for name in branch.parameters if block is not None else ():
            used.setdefault(name, {})[block] = None  # type: ignore[index]
    return {name: _tied(name, list(by)) for name, by in used.items() if len(by) > 1}


def _tied(name: str, blocks: Sequence[int]) -> str:
    some = ", ".join(map(str, blocks[:6])) + (", ..." if len(blocks) > 6 else "")
    return f"{name!r} is one tensor for blocks {some}, of which none can have a gain of its own"


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
    names = [name for name, _ in named]
    check_patterns("layers", patterns, names, f"a layer of block {number} ({type(block).__name__})")
    return [module for name, module in named if any(matches(pattern, name) for pattern in patterns)]


def _fingerprints(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Two numbers of each parameter that change when it does."""
    at_rest(model)
    found = {}
    for name, parameter in model.named_parameters():
        values = gathered(parameter.detach()).double()
        found[name] = (repr(float(values.sum())), repr(float(values.square().sum())))
    return found
