"""Points of the residual stream: which cut vertices they are, what they are called, and which bound blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch.autograd.function import BackwardCFunction

from criticality.arguments import checked
from criticality.errors import StreamNotFoundError
from criticality.stream.flow import Flow
from criticality.stream.graph import Graph
from criticality.stream.record import PASSED_ON, RESUMED, Call, Record
from criticality.stream.tensors import node_name

ADDITIONS = ("Add", "Sub", "Rsub", "Lerp", "IndexAdd", "ScatterAdd", "IndexPut")
"""How the names of nodes begin that add to a stream; ``Add`` covers ``addcmul`` and the like, and ``addmm``."""

VIEWS = (
    "View", "UnsafeView", "Reshape", "Transpose", "Permute", "TBackward", "Unsqueeze", "Squeeze", "Expand", "Alias",
    "Clone", "ToCopy", "Copy", "CopySlices", "AsStrided", "NativeDropout", "Dropout", "Unflatten", "Flatten", "Stack", "Contiguous",
)  # fmt: skip
"""How the names of nodes begin that hand a value on as it is."""

_OF_TORCH = ("Backward0", "Backward1", "Backward2", "Backward3")
"""How the names of torch's own nodes end."""

OPAQUE = "CheckpointFunctionBackward"
"""A checkpointed part of a model, whose inside is not in the graph."""


@dataclass(frozen=True)
class Point:
    """A value of the residual stream.

    Attributes:
        name: module that returns it, or where it is made, for people.
        position: in blocks; whole numbers are boundaries of blocks.
        shape: of the value.
        node: its number in the graph.
    """

    name: str
    position: float
    shape: tuple[int, ...]
    node: int

    @property
    def boundary(self) -> bool:
        """Whether it is the input of the first or the output of a block."""
        return self.position == int(self.position)


@dataclass(frozen=True)
class Step:
    """From one join to the next.

    Attributes:
        start: cut vertex before the join.
        join: where skip and branch meet.
        end: the point of the stream after it, norms after the addition included.
        residual: whether a path leads from start to join by sums, views and scalar factors only.
    """

    start: int
    join: int
    end: int
    residual: bool = True


class Layout:
    """The graph of a forward pass with what was recorded of its nodes.

    Args:
        graph: of autograd.
        record: of the calls and the modules.
        parameters: of each module, by its name, names and shapes of its own parameters.
    """

    def __init__(self, graph: Graph, record: Record, parameters: Mapping[str, Mapping[str, tuple[int, ...]]]):
        self.graph, self.record, self.of_module = graph, record, parameters
        self.shapes = {name: shape for own in parameters.values() for name, shape in own.items()}
        self._made: dict[int, list[int]] = {}
        self._children: dict[int, list[int]] = {}
        for number, visit in enumerate(record.visits):
            self._children.setdefault(visit.parent, []).append(number)
            for node in visit.made:
                if node in graph.number:
                    self._made.setdefault(graph.number[node], []).append(number)

    def name(self, node: int) -> str:
        """Of the autograd node, without its namespace."""
        call = self.call(node)
        if call is not None and call.function == PASSED_ON and self.is_own(node):
            return "AliasBackward0"
        return node_name(self.graph.nodes[node]).rpartition("::")[2]

    def owners(self, node: int) -> list[int]:
        """Visits that return a value that they did not take, in the order in which they began: from the outside in."""
        return self._made.get(node, [])

    def call(self, node: int) -> Call | None:
        """What made a value, if it was seen."""
        return self.record.calls.get(self.graph.nodes[node])

    def parameters(self, node: int) -> tuple[str, ...]:
        """That a node's call took; of one that was made by a function of somebody's own, those of the module that it is in."""
        call, name = self.call(node), self.name(node)
        if call is None:
            return ()
        if call.function == PASSED_ON or call.parameters or call.function != name or name.endswith(_OF_TORCH):
            return call.parameters
        return () if call.visit < 0 else tuple(self.of_module.get(self.record.visits[call.visit].name, {}))

    def is_own(self, node: int) -> bool:
        """Whether a value was made by a function of somebody's own."""
        return isinstance(self.graph.nodes[node], BackwardCFunction)

    def heavy(self, node: int) -> bool:
        """Whether a node's call took a weight matrix: a parameter with two axes or more that are longer than 1."""
        return any(self.is_matrix(parameter) for parameter in self.parameters(node))

    def is_matrix(self, parameter: str) -> bool:
        """Whether a parameter has two axes or more that are longer than 1."""
        return sum(size > 1 for size in self.shapes.get(parameter, ())) >= 2

    def visit(self, node: int) -> int:
        """The innermost visit that a value was made in, -1 when it was not seen."""
        call = self.call(node)
        return -1 if call is None else call.visit

    def shape(self, node: int) -> tuple[int, ...]:
        """Of a value."""
        call = self.call(node)
        if call is not None and call.shapes:
            return call.shapes[min(call.shapes)]
        seen = getattr(self.graph.nodes[node], "_input_metadata", None)
        return tuple(seen[0].shape) if seen else ()

    def label(self, node: int) -> str:
        """Where a value comes from, for people."""
        owners = [self.record.visits[number].name for number in self.owners(node)]
        named = [name for name in owners if name]
        if named:
            return min(named, key=lambda name: name.count("."))
        visit = self.visit(node)
        if visit < 0:
            return "input"
        inside = self.record.visits[visit].name
        before = [number for number in self._children.get(visit, []) if self._left_before(number, node)]
        if not before:
            call = self.call(node)
            return inside or (RESUMED if call is not None and call.function == RESUMED else self.name(node))
        child = self.record.visits[before[-1]].name
        last = child.removeprefix(f"{inside}.") if inside else child
        return f"{inside} after {last}" if inside else f"after {last}"

    def _left_before(self, visit: int, node: int) -> bool:
        values = self.record.visits[visit].made
        made = [self.graph.number[one] for one in values if one in self.graph.number]
        if made:
            return max(made) < node
        # What was changed in place afterwards is not in the graph as it was returned.
        calls = [self.record.calls[one].number for one in values if one in self.record.calls]
        mine = self.call(node)
        return bool(calls) and mine is not None and max(calls) < mine.number


def steps(layout: Layout, flow: Flow) -> list[Step]:
    """Steps of the residual stream, from the first join that adds to a stream to the last.

    What follows a join, up to the last norm before the next weight or branching, such as that of a post-norm block, belongs to
    its step when it does so at most joins.
    """
    joins = [node for node in flow.cuts if _adds(layout, flow, node)]
    if not joins:
        return []
    cuts, place = flow.cuts, {node: number for number, node in enumerate(flow.cuts)}

    def start_of(node: int) -> int:
        return cuts[place[node] - 1] if place[node] else -1

    tails = {join: _tail(layout, flow, join) for join in joins}
    kinds = {join: tuple(layout.name(node) for node in tail) for join, tail in tails.items()}
    inner = Counter(kinds[join] for join in joins[:-1] if tails[join])
    usual = [kind for kind, often in inner.items() if 4 * often >= len(joins) - 1]
    if 2 * sum(inner[kind] for kind in usual) <= len(joins) - 1:
        usual = []
    ends = {}
    for join in joins:
        fits = [len(kind) for kind in usual if kinds[join][: len(kind)] == kind]
        ends[join] = tails[join][max(fits) - 1] if fits else _written(layout, flow, join)
    return [
        Step(start_of(join), join, ends[join], additions_on_skip(layout, flow, start_of(join), join) is not None)
        for join in joins
        if start_of(join) >= 0
    ]


def _tail(layout: Layout, flow: Flow, join: int) -> list[int]:
    """Cut vertices after a join, up to the last one of a norm that stands before the next weight or addition."""
    tail, normed = [], 0
    for start, node in pairwise(flow.cuts[flow.cuts.index(join) :]):
        inside = flow.inside(start, node)
        if _adds(layout, flow, node) or any(map(layout.heavy, (node, *inside))):
            break
        tail.append(node)
        linear = layout.name(node).startswith((*ADDITIONS, *VIEWS, "Mul", "Div", "Neg")) and len(flow.joined[node]) == 1
        same = normed == len(tail) - 1 > 0 and layout.visit(node) == layout.visit(start)
        if not linear or same:  # a norm, or its gain and bias
            normed = len(tail)
    return tail[:normed]


def _written(layout: Layout, flow: Flow, join: int) -> int:
    """The value that a join makes; of one that writes to a part of a tensor, that part."""
    after = flow.consumers[join]
    if layout.name(join) == "CopySlices" and len(after) == 1 and layout.name(after[0]).startswith(VIEWS):
        return after[0]
    return join


def additions_on_skip(layout: Layout, flow: Flow, start: int, end: int) -> int | None:
    """Fewest additions on the paths of a region that lead by sums, views and scalar factors only, its end left out; ``None``
    when there is no such path."""
    fewest = {start: 0}
    for node in (*flow.inside(start, end), end):
        before = [fewest[one] for one in flow.joined[node] if one in fewest]
        name = layout.name(node)
        scales = len(flow.joined[node]) == 1 and name.startswith(("Mul", "Div", "Sum", "Mean", "Neg"))
        if layout.heavy(node):  # addmm, too, is called an addition
            continue
        if before and (name.startswith((*ADDITIONS, *VIEWS)) or scales or name == OPAQUE):
            fewest[node] = min(before) + (name.startswith(ADDITIONS) and len(flow.joined[node]) > 1)
    return fewest[end] - (layout.name(end).startswith(ADDITIONS)) if end in fewest else None


def weighted_joins(layout: Layout, flow: Flow) -> int:
    """How many joins add something that was made with a parameter: a rotation, too, adds a value to itself."""
    place = {node: number for number, node in enumerate(flow.cuts)}
    return sum(
        any(layout.parameters(one) for one in flow.inside(flow.cuts[place[node] - 1] if place[node] else -1, node))
        for node in flow.joins
        if _adds(layout, flow, node)
    )


def _adds(layout: Layout, flow: Flow, node: int) -> bool:
    name = layout.name(node)
    if name == OPAQUE:
        return True
    several = len(flow.joined[node]) > 1
    if several and name.startswith("Stack"):
        after = [layout.name(one) for one in flow.consumers[node]]
        return all(one.startswith(("Sum", "Mean")) for one in after)
    custom = several and not name.endswith(_OF_TORCH)
    return several and (name.startswith(ADDITIONS) or custom)


@checked
def named_points(layout: Layout, names: Sequence[tuple[str, str]]) -> list[Point]:
    """Points that are given by names of modules and their sides, ``input`` or ``output``, one block between any two.

    Raises:
        StreamNotFoundError: a module that is not run, runs twice, comes before the one named before it, or whose tensor does
            not depend on the inputs.
    """
    found: list[Point] = []
    for number, (name, side) in enumerate(names):
        shown = f"{name}:input" if side == "input" else name
        visits = [visit for visit in layout.record.visits if visit.name == name]
        if not visits:
            raise StreamNotFoundError(f"point '{shown}' must be reached by the forward pass, and is not")
        values = [visits[0].entered if side == "input" else visits[0].left for visit in visits]
        nodes = [layout.graph.number[node] for node in values[0] if node in layout.graph.number]
        if not nodes:
            raise StreamNotFoundError(
                f"point '{shown}' must be a floating tensor that depends on the inputs by differentiable operations"
            )
        if len(visits) > 1 or (found and nodes[0] <= found[-1].node):
            raise StreamNotFoundError(
                f"point '{shown}' must be reached once, as number {number} of the stream: it is reached {len(visits)} times,"
                f" {'not ' if found and nodes[0] <= found[-1].node else ''}after the point before it"
            )
        found.append(Point(shown, float(number), layout.shape(nodes[0]), nodes[0]))
    return found
