"""The blocks of a stream as calls of modules, and the run of them that repeats itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from criticality.errors import StreamNotFoundError
from criticality.stream.find import Chain, Trace, original, watch
from criticality.stream.inputs import mapped
from criticality.stream.points import VIEWS, Layout
from criticality.stream.tensors import node_name, node_of, tensors_in

TraitOfParameter = Callable[[Tensor], Hashable]
"""What of a parameter, beside its shape, tells one block from another, such as the law that it is drawn from."""


@dataclass
class BlockCall:
    """One call of a module that takes a value of the stream and returns a later one of the same shape, or what is added for it.

    Attributes:
        name: of the module.
        module: itself.
        time: how many calls of the module came before in the pass.
        start, end: nodes of the two values.
        blocks: boundaries of blocks from the one to the other.
        shape: of the value.
        takes, gives: which of the tensors that go in and come out the values are.
        adds: whether what comes out is the branch, and the later value its sum with the one before.
        args, kwargs, value: what the call is given, and of that the stream.
    """

    name: str
    module: nn.Module
    time: int
    start: int
    end: int
    blocks: int
    shape: tuple[int, ...]
    takes: int
    gives: int
    adds: bool = False
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The block's value for another value of the stream, all other arguments as they were."""
        args, kwargs = _exchanged((self.args, self.kwargs), self.takes, x)
        found = list(tensors_in(self.module(*args, **kwargs)))[self.gives]
        return x + found if self.adds else found


@dataclass(frozen=True)
class Run:
    """Blocks that are repeated, in order.

    Attributes:
        calls: a whole number of periods.
        period: calls after which the same kind of block comes again.
        seen: how many calls of one shape follow each other in the model.
        tied: whether one module is called more than once, or has the weights of another.
    """

    calls: tuple[BlockCall, ...]
    period: int
    seen: int
    tied: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modules, in order."""
        return tuple(one.name or "the model itself" for one in self.calls)


def repeated_blocks(
    model: nn.Module,
    inputs: Any,
    found: Trace,
    chain: Chain,
    trait: TraitOfParameter,
    under: AbstractContextManager[Any] | None = None,
) -> Run:
    """The longest run of blocks of one shape, without those before its period begins, such as a first dense layer.

    Blocks are alike that have the same modules, numbers, shapes and laws of parameters, and that are given the same arguments
    beside the stream.  Numbers that grow or fall from block to block, such as an index, say where a block is and not what it is.

    Args:
        model, inputs: as they were traced.
        found, chain: the trace, and which of its streams.
        trait: of a parameter.
        under: context in which the model is run once more for the arguments of its blocks.

    Raises:
        StreamNotFoundError: no module is called with a value of the stream and returns one of the same shape; something is done to
            the stream between most of the blocks, which repeating them would leave out.
    """
    runs = _runs(found.layout, chain, _candidates(model, found, chain))
    if not runs:
        raise StreamNotFoundError(
            f"blocks of {type(model).__name__} must be modules that take the stream and return it in the same shape for one to be"
            f" repeated, and of the {len(chain.points) - 1} points of {chain.name or 'the stream'!r} none is returned by such a"
            " module: measure models of several depths instead"
        )
    longest = max(reversed(runs), key=lambda run: sum(one.blocks for one in run))
    gaps = [
        (a[-1], b[0])
        for a, b in pairwise(runs)
        if type(a[-1].module) is type(b[0].module) and a[-1].shape == b[0].shape
    ]
    if len(gaps) >= len(longest):
        before, after = gaps[0]
        between = [found.layout.call(node) for node in chain.flow.cuts if before.end < node <= after.start]
        what = ", ".join(dict.fromkeys(repr(one.function) for one in between if one is not None))
        raise StreamNotFoundError(
            f"blocks of {type(model).__name__} must follow one another for one to be repeated, and between {before.name!r} and"
            f" {after.name!r} the stream goes through {what}: make it a part of the block, or measure models of several depths"
        )
    _watch_arguments(model, inputs, longest, under)
    period, length = periodic(_traits(longest, trait))
    kept = longest[len(longest) - length :]
    modules = [id(one.module) for one in kept]
    return Run(tuple(kept), period, len(longest), len(set(modules)) < len(modules))


def periodic(kinds: Sequence[Hashable | dict[str, Hashable]]) -> tuple[int, int]:
    """Smallest period of the end of a sequence, and how many of its last entries make whole periods of it.

    Of all periods that one with which most of the last entries are as those one period before; a sequence whose last entry
    comes once is one period.

    >>> periodic("dmmmmm"), periodic("abab"), periodic("lllllg"), periodic("lllfll")
    ((1, 5), (2, 4), (6, 6), (4, 4))
    """
    size = len(kinds)
    best = (size, size)
    longest = 0
    for period in range(1, size):
        begin = size - period
        while begin > 0 and kinds[begin - 1] == kinds[begin - 1 + period]:
            begin -= 1
        if begin < size - period and size - begin > longest:
            longest = size - begin
            best = (period, longest // period * period)
    return best


def _candidates(model: nn.Module, found: Trace, chain: Chain) -> list[BlockCall]:
    """Calls that take a cut vertex and return a boundary of blocks of the same shape, of those of one boundary the shortest."""
    layout = found.layout
    cuts = set(chain.flow.cuts)
    boundaries = [point.node for point in chain.points if point.boundary]
    joins = [step.join for step in chain.steps]
    best: dict[int, BlockCall] = {}
    times: dict[str, int] = {}
    for visit in layout.record.visits:
        time = times.get(visit.name, 0)
        times[visit.name] = time + 1
        entered = [layout.graph.number.get(node, -1) for node in visit.entered]
        left = [layout.graph.number.get(node, -1) for node in visit.left]
        ends = [node for node in left if _viewed(layout, chain, node) in boundaries]
        added = {} if ends else _sums_with(layout, boundaries, entered, left)
        if not (ends or added):
            continue
        end = ends[-1] if ends else max(added)
        for start in entered if ends else [added[end][0]]:
            shape = layout.shape(end)
            if start not in cuts or start >= end or layout.shape(start) != shape:
                continue
            inside = sum(start < node <= end for node in boundaries)
            before = max((node for node in boundaries if node <= start), default=-1)
            if any(before < join <= start for join in joins) or not any(start < join <= end for join in joins):
                continue
            if end in best and best[end].blocks <= inside:
                continue
            module = model.get_submodule(visit.name)
            takes, gives = entered.index(start), left.index(end if ends else added[end][1])
            best[end] = BlockCall(visit.name, module, time, start, end, inside, shape, takes, gives, not ends)
    return [best[end] for end in sorted(best)]


def _sums_with(
    layout: Layout, boundaries: Sequence[int], entered: Sequence[int], left: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Boundaries that are the sum of a value that enters a module and one that leaves it, without a factor: these two."""
    found = {}
    for end in boundaries:
        node = layout.graph.nodes[end]
        terms = [layout.graph.number[before] if before else -1 for before, _ in node.next_functions]
        if not node_name(node).startswith("AddBackward") or len(terms) != 2 or getattr(node, "_saved_alpha", 1) != 1:
            continue
        for start, branch in (terms, terms[::-1]):
            if start in entered and branch in left and branch not in entered:
                found[end] = start, branch
    return found


def _runs(layout: Layout, chain: Chain, calls: Sequence[BlockCall]) -> list[list[BlockCall]]:
    """Calls of one shape each of which takes what the one before returns, or a view of it."""
    runs: list[list[BlockCall]] = []
    for one in calls:
        last = runs[-1][-1] if runs else None
        if last is not None and last.start < one.start < last.end:
            continue
        follows = last is not None and last.shape == one.shape and _same_value(layout, chain, last.end, one.start)
        if follows:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def _same_value(layout: Layout, chain: Chain, end: int, start: int) -> bool:
    return end <= start and _viewed(layout, chain, end) == _viewed(layout, chain, start)


def _viewed(layout: Layout, chain: Chain, node: int) -> int:
    """The value that a value is a view of."""
    joined = chain.flow.joined
    while node >= 0 and layout.name(node).startswith(VIEWS) and len(joined.get(node, ())) == 1:
        node = joined[node][0]
    return node


def _watch_arguments(
    model: nn.Module, inputs: Any, calls: Sequence[BlockCall], under: AbstractContextManager[Any] | None
) -> None:
    """Fill in what each call is given, and where in it and in what comes out the stream is, in one pass."""
    wanted = {(id(one.module), one.time): one for one in calls}
    times: dict[int, int] = {}
    places = {id(one): (one.takes, one.gives) for one in calls}

    def begin(module: nn.Module, args: Any) -> None:
        times.clear()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        one = wanted.get((id(module), times.get(id(module), 0)))
        given = list(tensors_in((args, kwargs)))
        differentiable = [number for number, tensor in enumerate(given) if node_of(tensor) is not None]
        if one is not None and differentiable:
            one.takes = differentiable[places[id(one)][0]]
            one.value = given[one.takes].detach().clone()
            one.args, one.kwargs = mapped(Tensor.detach, args), mapped(Tensor.detach, kwargs)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        one = wanted.get((id(module), times.get(id(module), 0)))
        times[id(module)] = times.get(id(module), 0) + 1
        differentiable = [number for number, tensor in enumerate(tensors_in(output)) if node_of(tensor) is not None]
        if one is not None and differentiable:
            one.gives = differentiable[places[id(one)][1]]

    hooks = [original(model).register_forward_pre_hook(begin, prepend=True)]
    for module in {id(one.module): one.module for one in calls}.values():
        hooks += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        watch(model, inputs, lambda call, tensor: None, under)
    finally:
        for hook in hooks:
            hook.remove()


def _exchanged(value: Any, place: int, x: Tensor) -> Any:
    """The same nesting with the tensor of one number in the place of another."""
    numbers = iter(range(10**9))
    return mapped(lambda tensor: x if next(numbers) == place else tensor, value)


def _traits(calls: Sequence[BlockCall], trait: TraitOfParameter) -> list[dict[str, Hashable]]:
    """What each block is, without what says where it is: numbers that grow or fall from block to block."""
    rows = [dict(_traits_of(one, trait)) for one in calls]
    for key in {key for row in rows for key in row}:
        column = [row[key] for row in rows if key in row]
        numbers = [value for value in column if isinstance(value, (int, float)) and not isinstance(value, bool)]
        steps = [b - a for a, b in pairwise(numbers)]
        if len(numbers) == len(column) and (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
            for row in rows:
                row.pop(key, None)
    return rows


def _traits_of(one: BlockCall, trait: TraitOfParameter) -> Iterator[tuple[str, Hashable]]:
    yield "blocks", str(one.blocks)
    for path, module in one.module.named_modules():
        yield f"{path} class", str(id(type(module)))
        for name, value in vars(module).items():
            if isinstance(value, _SCALARS) or (
                isinstance(value, (tuple, list)) and all(isinstance(entry, _SCALARS) for entry in value)
            ):
                yield f"{path}.{name}", tuple(value) if isinstance(value, (tuple, list)) else value
    for name, parameter in one.module.named_parameters():
        yield f"{name} shape", tuple(parameter.shape)
        yield f"{name} law", trait(parameter)
    for number, tensor in enumerate(tensors_in((one.args, one.kwargs))):
        yield f"tensor {number}", None if number == one.takes else _fingerprint(tensor)
    for key, value in (*enumerate(one.args), *one.kwargs.items()):
        if isinstance(value, _SCALARS) or value is None:
            yield f"argument {key!r}", value


_SCALARS = (bool, int, float, str)


def _fingerprint(tensor: Tensor) -> Hashable:
    """Of the numbers of a tensor; its shape where it has none."""
    shape = tuple(tensor.shape)
    if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
        return shape
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return shape, hashlib.sha256(raw).hexdigest()
