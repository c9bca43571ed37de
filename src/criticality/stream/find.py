"""Finding the residual streams of a model in the data flow of one forward pass."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from criticality.arguments import check
from criticality.errors import InputsError, StreamNotFoundError
from criticality.stream.boundaries import points
from criticality.stream.flow import Flow, SideInput, hides_much, hold_side_inputs, largest_region
from criticality.stream.graph import graph_of
from criticality.stream.inputs import call, differentiable
from criticality.stream.points import ADDITIONS, Layout, Point, Step, additions_on_skip, steps, weighted_joins
from criticality.stream.record import Observe, Record
from criticality.stream.recording import Recording
from criticality.stream.tensors import node_name, tensors_in
from criticality.stream.untouched import at_the_end, written_back


@dataclass(frozen=True)
class Chain:
    """One residual stream: from where its source enters to the last addition.

    Attributes:
        name: common part of the names of its points; encoder and decoder differ in it.
        points: in order, ``steps + 1`` of them.
        steps: between them, one for each join.
        side_inputs: where the values come from that are used along the depth and held fixed.
        flow: paths of the data that it is in.
    """

    name: str
    points: tuple[Point, ...]
    steps: tuple[Step, ...]
    side_inputs: tuple[str, ...]
    flow: Flow


@dataclass(frozen=True)
class Trace:
    """What one forward pass left: its graph, what was recorded, and the chains found in it."""

    layout: Layout
    output: Tensor
    chains: tuple[Chain, ...]

    def node(self, point: Point) -> Node:
        """The autograd node of a point."""
        return self.layout.graph.nodes[point.node]

    @property
    def resumed(self) -> tuple[str, ...]:
        """Where values come from that the streams begin with, as no gradient passes from the inputs to them."""
        numbers = (self.layout.graph.number.get(node) for node in self.layout.record.resumed)
        return tuple(dict.fromkeys(self.layout.label(number) for number in numbers if number is not None))


def trace(
    model: nn.Module,
    inputs: Any,
    observe: Observe | None = None,
    under: AbstractContextManager[Any] | None = None,
    required: bool = True,
) -> Trace:
    """Run a model once, its parameters frozen and its mode as it is, and find its residual streams.

    Args:
        model: that is run.
        inputs: of any form that ``arguments`` knows.
        observe: called with each value that depends on the inputs.
        under: context in which the model is run, such as a mode that takes its weights' place. Its method ``again``, where it has
            one, is called before a pass is repeated.
        required: whether a residual stream must be found.

    Raises:
        InputsError: nothing in the inputs is floating or embedded, or the output does not depend on it.
        ModelFailedError: the model's own code raised.
        StreamNotFoundError: no point through which the whole data flow goes and where something is added.
    """
    check(nn.Module, "model", model)
    model = original(model)
    record, returned = _run(model, inputs, observe, under)
    sources = record.sources
    if not sources:
        raise InputsError(
            f"inputs of {type(model).__name__} must be floating, or integers that the model looks up in an embedding,"
            " and it looks none of them up"
        )
    outputs = [tensor for tensor in tensors_in(returned) if tensor.grad_fn is not None]
    if not tensors_in(returned):
        raise InputsError(
            f"output of {type(model).__name__} must be tensors, or tuples, lists, mappings or dataclasses of them, and is a"
            f" {type(returned).__name__}"
        )
    if not outputs:
        raise InputsError(
            f"output of {type(model).__name__} must depend on its inputs by differentiable operations, and does not"
        )
    layout = _layout(model, record, outputs)
    _check_gradients(model, layout)
    missed: list[str] = []
    output, chains = _deepest(layout, sources, outputs, missed)
    if chains or not required:
        found = Trace(layout, output, tuple(chains))
        if found.resumed:
            warnings.warn(
                "no gradient passes from the inputs to the output: the stream begins with values that are detached, made without"
                f" gradients or looked up by computed numbers, at {', '.join(map(repr, found.resumed))}",
                stacklevel=3,
            )
        return found
    raise StreamNotFoundError(
        f"model {type(model).__name__} must have a residual stream, values through which the whole data flow goes and"
        f" to which branches are added; {missed[0]}; for a part of it give points=['name of module', ...]"
    )


def _deepest(
    layout: Layout, sources: list[Tensor], outputs: Sequence[Tensor], missed: list[str]
) -> tuple[Tensor, list[Chain]]:
    """The output whose longest chain has most steps, of several the first, and its chains: heads along the depth and lists of
    hidden states may come before what the whole depth leads to."""
    graph = layout.graph
    chains: dict[Node | None, list[Chain]] = {}
    passed: set[int] = set()
    for output in sorted(outputs, key=lambda one: -graph.number[one.grad_fn]):  # type: ignore[index]
        if output.grad_fn in chains or graph.number[output.grad_fn] in passed:  # type: ignore[index]
            continue  # a point before the last of a longer chain ends a shorter one
        found = chains[output.grad_fn] = _chains(layout, sources, output, missed)
        passed |= {cut for chain in found for cut in chain.flow.cuts if cut < chain.steps[-1].join}

    def steps_to(output: Tensor) -> int:
        return max((len(chain.steps) for chain in chains.get(output.grad_fn, ())), default=0)

    best = max(outputs, key=steps_to)
    return best, chains.get(best.grad_fn, [])


def _check_gradients(model: nn.Module, layout: Layout) -> None:
    """Refuse operations that torch has no gradient of, such as those of quantized layers: it would give 0 for them."""
    missing = [number for number, node in enumerate(layout.graph.nodes) if "NotImplemented" in node_name(node)]
    if missing:
        visits = layout.record.visits
        inside = [visits[layout.visit(number)].name for number in missing if layout.visit(number) >= 0]
        raise StreamNotFoundError(
            f"branches of {type(model).__name__} must pass a gradient on, and {len(missing)} operations have none"
            f"{f', first in {inside[0]!r}' if inside else ''}: measure quantized layers before they are quantized"
        )


def watch(model: nn.Module, inputs: Any, observe: Observe, under: AbstractContextManager[Any] | None = None) -> Record:
    """Run a model once for what ``observe`` is called with.

    Raises:
        InputsError, ModelFailedError: as ``trace``.
    """
    return _run(model, inputs, observe, under)[0]


def _run(
    model: nn.Module, inputs: Any, observe: Observe | None, under: AbstractContextManager[Any] | None
) -> tuple[Record, Any]:
    """What was seen, its sources included, and what the model returns.

    Where nothing in the inputs is looked up, or no gradient of what is returned reaches them, the model is run again with sources
    inside it: first the look-ups of integers that it computes, then values that gradients do not pass.
    """
    model = original(model)
    tokens: list[Tensor] = []
    for computed, resumed in ((False, False), (True, False), (True, True)):
        if computed and not resumed and not tokens:
            continue
        if computed:
            getattr(under, "again", lambda: None)()
        ready, sources, tokens = differentiable(inputs)
        recording = Recording(model, tokens, observe, computed, resumed)
        ready = recording.enter(ready)
        restored = at_the_end(written_back(model, recording.saved), under is None)
        with restored, eager(), under or nullcontext(), recording.watching() as record:
            returned = call(model, ready, recording.where)
        record.sources[:0] = sources
        reached = any(tensor.grad_fn is not None for tensor in tensors_in(returned))
        if record.sources and reached:
            break
    return record, returned


def _layout(model: nn.Module, record: Record, outputs: Sequence[Tensor]) -> Layout:
    graph = graph_of([tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None])
    return Layout(graph, record, _own_parameters(model))


def _own_parameters(model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        module_name: {
            f"{module_name}.{name}" if module_name else name: tuple(parameter.shape)
            for name, parameter in module.named_parameters(recurse=False)
        }
        for module_name, module in model.named_modules()
    }


def original(model: nn.Module) -> nn.Module:
    """The module that was compiled, or the module itself."""
    module: nn.Module = getattr(model, "_orig_mod", model)
    return module


def eager() -> AbstractContextManager[Any]:
    """A context in which parts of a model that are compiled run as they were written: no graph is compiled for it."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _chains(layout: Layout, sources: list[Tensor], output: Tensor, missed: list[str]) -> list[Chain]:
    """Of every source, each set of joins once; the longest that ends at the output first."""
    found: dict[tuple[int, ...], Chain] = {}
    assert output.grad_fn is not None
    flows = [layout.graph.flow([source], output.grad_fn) for source in sources]
    flows = [flow for flow in flows if flow.nodes]
    for number, flow in enumerate(flows):
        others = [one for index, one in enumerate(flows) if index != number]
        for part, held in _parts(layout, flow, others):
            part_steps = steps(layout, part)
            complaint = _hidden(layout, part)
            if not part_steps or complaint:
                nothing = f"{len(part.joins)} joins were found, at none of which something is added to a stream"
                missed.append((complaint or nothing) + _unseen(layout, part) + _blocked(layout))
                continue
            key = tuple(step.join for step in part_steps)
            if key not in found:
                sides = tuple(layout.label(side.node) for side in held)
                chain_points = tuple(points(layout, part, part_steps))
                found[key] = Chain(_chain_name(chain_points), chain_points, tuple(part_steps), sides, part)
    chains = sorted(found.values(), key=lambda chain: -len(chain.steps))
    kept: list[Chain] = []
    for chain in chains:
        joins = {step.join for step in chain.steps}
        if not any(joins <= {step.join for step in other.steps} for other in kept):
            kept.append(chain)
    if not kept and not flows:
        missed.append("the output does not depend on any of its inputs")
    return kept


def _parts(layout: Layout, flow: Flow, others: list[Flow]) -> Iterator[tuple[Flow, tuple[SideInput, ...]]]:
    """A flow as it is, or, where its longest region has no cut vertex, up to that region and, with side inputs held, over it."""
    start, end = largest_region(flow)
    if start < 0 or not hides_much(flow, (start, end)):
        yield flow, ()
        return
    before = [node for node in flow.joins if node <= start]
    fan = [node for node in flow.consumers[start] if node <= end]
    side = len(before) >= 2 and len(fan) >= 4
    if side:
        yield Flow(flow.inputs, flow.sources, start), ()
        if any(len(set(other.joins) & set(range(start + 1, end + 1))) >= 2 for other in others):
            return
    worth = partial(weighted_joins, layout)
    held_flow, held = hold_side_inputs(flow, count=worth)
    if _hidden(layout, held_flow):  # one skip around many blocks has two consumers; of nested ones little would be left
        further_flow, further = hold_side_inputs(flow, count=worth, fewest=2, most_held=1)
        if further and not _hidden(layout, further_flow):
            held_flow, held = further_flow, further
    yield held_flow, held


def _hidden(layout: Layout, flow: Flow) -> str:
    """What is wrong when most of a network is in one region without a cut vertex, which holds several additions to a stream."""
    start, end = largest_region(flow)
    inside = flow.inside(start, end)
    if not hides_much(flow, (start, end)):
        return ""
    if _additions_on_skip(layout, flow, start, end) < _SEVERAL:
        return ""
    places = [layout.label(node) if node >= 0 else "the input" for node in (start, end)]
    return (
        f"{len(flow.joins)} joins were found, and between {places[0]!r} and {places[1]!r} there is none for"
        f" {len(inside)} of {len(flow.nodes)} operations, as values go around every one (dense or nested skips, several lanes)"
    )


def _unseen(layout: Layout, flow: Flow) -> str:
    """Functions of somebody's own, whose inside is not in the graph."""
    own = [node for node in flow.nodes if layout.is_own(node)]
    if not own:
        return ""
    return (
        f", and at {len(own)} operations, first at {layout.label(own[0])!r}, values go through functions of the model's own"
        f" ({layout.name(own[0]).removesuffix('Backward')}), inside which nothing is recorded"
    )


def _blocked(layout: Layout) -> str:
    calls = [call for call in layout.record.calls.values() if call.blocked]
    if not calls:
        return ""
    first = layout.label(layout.graph.number[calls[0].node]) if calls[0].node in layout.graph.number else "its output"
    return (
        f", and at {len(calls)} operations, first at {first!r}, values are used through which no gradient passes"
        " (quantized, detached or whole numbers)"
    )


_SEVERAL = 3


def _additions_on_skip(layout: Layout, flow: Flow, start: int, end: int) -> int:
    """Fewest additions on a path that only adds, without such a path all that are there."""
    fewest = additions_on_skip(layout, flow, start, end)
    if fewest is not None:
        return fewest
    return sum(
        layout.name(node).startswith(ADDITIONS) and len(flow.joined[node]) > 1 for node in flow.inside(start, end)
    )


def _chain_name(chain: tuple[Point, ...]) -> str:
    names = [point.name.split(" ")[0].split(".") for point in chain[1:]]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return ".".join(parts[0] for parts in shared) if len(names) > 1 else ""
