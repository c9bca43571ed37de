"""The data flow of a forward pass as a graph of numbers: paths, cut vertices, side inputs.

Nodes are numbered in an order in which every node comes after its inputs.  Everything here is linear in the number of
edges, but for the search for side inputs, which is linear for each candidate.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Flow:
    """All paths from ``sources`` to ``sink``.

    Attributes:
        inputs: of each node, the nodes whose values it takes, each once.
        sources: nodes at which paths start; their own inputs do not count.
        sink: node at which they end.
    """

    inputs: tuple[tuple[int, ...], ...]
    sources: frozenset[int]
    sink: int

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """Those on a path from a source to the sink, in order; empty when there is none."""
        reached: set[int] = set()
        for node in range(self.sink + 1):
            if node in self.sources or any(before in reached for before in self.inputs[node]):
                reached.add(node)
        if self.sink not in reached:
            return ()
        needed = {self.sink}
        for node in range(self.sink, -1, -1):
            if node in needed and node not in self.sources:
                needed.update(self.inputs[node])
        return tuple(sorted(reached & needed))

    @cached_property
    def joined(self) -> dict[int, tuple[int, ...]]:
        """Of each node on a path its inputs that are on one too; none of a source."""
        on_path = set(self.nodes)
        return {
            node: () if node in self.sources else tuple(before for before in self.inputs[node] if before in on_path)
            for node in self.nodes
        }

    @cached_property
    def consumers(self) -> dict[int, tuple[int, ...]]:
        """Of each node on a path the nodes on one that take its value, in order."""
        found: dict[int, list[int]] = {node: [] for node in self.nodes}
        for node, before in self.joined.items():
            for one in before:
                found[one].append(node)
        return {node: tuple(after) for node, after in found.items()}

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Cut vertices: nodes through which every path goes, in order; the sink is one.

        A node is one when no edge passes over it, an edge into every source from before the first node included.
        """
        place = {node: number for number, node in enumerate(self.nodes, 1)}
        earliest = len(place) + 1  # first end of the edges that end later
        found = []
        for node in reversed(self.nodes):
            if earliest >= place[node]:
                found.append(node)
            before = [place[one] for one in self.joined[node]]
            earliest = min([earliest, *before, *([0] if node in self.sources else [])])
        return tuple(reversed(found))

    @cached_property
    def joins(self) -> tuple[int, ...]:
        """Cut vertices in which two or more paths meet."""
        return tuple(node for node in self.cuts if len(self.joined[node]) > 1)

    @cached_property
    def regions(self) -> tuple[tuple[int, int], ...]:
        """Pairs of successive cut vertices; the first starts before all nodes, as -1, unless there is one source."""
        ends = self.cuts if len(self.sources) == 1 and self.cuts and self.cuts[0] in self.sources else (-1, *self.cuts)
        return tuple(pairwise(ends))

    def inside(self, start: int, end: int) -> tuple[int, ...]:
        """Nodes of a region, its ends left out."""
        return self.nodes[bisect_right(self.nodes, start) : bisect_left(self.nodes, end)]

    def meetings(self, start: int, end: int) -> int:
        """How many nodes of a region paths meet in: the same for any way in which products are computed."""
        return sum(len(self.joined[node]) > 1 for node in self.inside(start, end))

    def without(self, node: int, kept: int) -> Flow:
        """The same with the value of ``node`` taken by its first ``kept`` consumers only: for the others it is given."""
        dropped = set(self.consumers[node][kept:])
        inputs = tuple(
            tuple(one for one in before if one != node) if number in dropped else before
            for number, before in enumerate(self.inputs)
        )
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class SideInput:
    """A value that is used along the depth and held fixed: ``node`` is seen by its first ``kept`` consumers only."""

    node: int
    kept: int


_SHARE = 1 / 3
FEWEST_CONSUMERS = 4
_MOST_KEPT = 5
_ROUNDS = 3


def largest_region(flow: Flow) -> tuple[int, int]:
    """The region between two cut vertices in which paths meet most often, of those alike the one that holds the most nodes."""
    return max(flow.regions, key=lambda region: (flow.meetings(*region), len(flow.inside(*region))))


def hides_much(flow: Flow, region: tuple[int, int]) -> bool:
    """Whether more than a third of all nodes in which paths meet is in one region, out of sight of the cut vertices."""
    return flow.meetings(*region) > _SHARE * sum(len(before) > 1 for before in flow.joined.values())


def hold_side_inputs(
    flow: Flow,
    fixed: Collection[int] = (),
    count: Callable[[Flow], int] = lambda flow: len(flow.joins),
    fewest: int = FEWEST_CONSUMERS,
) -> tuple[Flow, tuple[SideInput, ...]]:
    """Hold values fixed that hide the cut vertices, one after the other, as long as that gives more joins.

    Tried are values of ``fewest`` or more consumers that span most of the largest region without a cut vertex, when that
    holds more than a third of the nodes in which paths meet; kept are the nearest consumers that give most joins.

    Args:
        flow: all paths.
        fixed: nodes that are not tried.
        count: how many joins of a flow are worth having, by default all.
        fewest: consumers that a value must have; 2 for a skip around many blocks.
    """
    held: list[SideInput] = []
    for _ in range(_ROUNDS):
        if not flow.nodes:
            break
        start, end = largest_region(flow)
        if not hides_much(flow, (start, end)):
            break
        best = max(
            _candidates(flow, start, end, fixed, fewest),
            key=lambda candidate: (count(candidate[0]), len(candidate[0].joins), -candidate[1].kept),
            default=None,
        )
        if best is None or count(best[0]) <= count(flow) + 1:
            break
        flow = best[0]
        held.append(best[1])
    return flow, tuple(held)


def _candidates(
    flow: Flow, start: int, end: int, fixed: Collection[int], fewest: int
) -> Iterator[tuple[Flow, SideInput]]:
    region = [node for node in (start, *flow.inside(start, end)) if node >= 0]
    for node in region:
        consumers = [one for one in flow.consumers[node] if one <= end]
        if node in fixed or len(consumers) < fewest or not _spans(consumers, flow.inside(start, end)):
            continue
        for kept in range(min(_MOST_KEPT, len(consumers)) + 1):
            cut = flow.without(node, kept)
            if cut.nodes:
                yield cut, SideInput(node, kept)


def _spans(consumers: Sequence[int], region: Sequence[int]) -> bool:
    """Whether the consumers are spread over at least half of a region."""
    between = sum(1 for node in region if consumers[0] <= node <= consumers[-1])
    return 2 * between >= len(region)
