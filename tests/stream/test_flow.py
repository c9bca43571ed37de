"""Cut vertices, regions and side inputs on graphs of numbers, against removing each vertex and looking for a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criticality.stream.flow import Flow, SideInput, hold_side_inputs, largest_region


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Random graphs of up to 14 nodes in an order of execution, with one to three sources."""
    size = draw(st.integers(2, 14))
    inputs = tuple(
        tuple(sorted(draw(st.sets(st.integers(0, node - 1), max_size=3)))) if node else () for node in range(size)
    )
    sources = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=3))
    return Flow(inputs, frozenset(sources), size - 1)


def has_path(flow: Flow, removed: int | None = None) -> bool:
    """Whether the sink depends on a source when one node is taken away; inputs of sources do not count."""
    reached: set[int] = set()
    for node in range(flow.sink + 1):
        if node != removed and (node in flow.sources or any(before in reached for before in flow.inputs[node])):
            reached.add(node)
    return flow.sink in reached


def cuts_by_removal(flow: Flow) -> tuple[int, ...]:
    """Nodes without which no source reaches the sink."""
    return tuple(node for node in range(flow.sink + 1) if has_path(flow) and not has_path(flow, node))


@given(flows())
def test_cut_vertices_are_those_whose_removal_leaves_no_path(flow: Flow) -> None:
    # A source that is used by another one starts a path of its own: its inputs do not count, as in the definition.
    assert flow.cuts == cuts_by_removal(flow)


@given(flows())
def test_nodes_are_those_on_a_path(flow: Flow) -> None:
    on_path = []
    for node in range(flow.sink + 1):
        to_node = Flow(flow.inputs, flow.sources, node)
        from_node = Flow(flow.inputs, frozenset([node]), flow.sink)
        source_between = node != flow.sink and not _reaches_without_sources(flow, node)
        if has_path(to_node) and has_path(from_node) and not source_between:
            on_path.append(node)
    assert flow.nodes == tuple(on_path)


def _reaches_without_sources(flow: Flow, start: int) -> bool:
    """Whether the sink takes the value of ``start`` by nodes that are no sources."""
    reached = {start}
    for node in range(start + 1, flow.sink + 1):
        if node not in flow.sources and any(before in reached for before in flow.inputs[node]):
            reached.add(node)
    return flow.sink in reached


@given(flows())
def test_joins_and_regions_follow_from_the_cuts(flow: Flow) -> None:
    assert set(flow.joins) == {node for node in flow.cuts if len(flow.joined[node]) > 1}
    inside = [node for start, end in flow.regions for node in flow.inside(start, end)]
    assert sorted([*inside, *flow.cuts]) == list(flow.nodes)  # every node is a cut or in one region


@given(flows(), st.data())
def test_holding_a_value_takes_it_from_its_later_consumers_only(flow: Flow, data: st.DataObject) -> None:
    if not flow.nodes:
        return
    node = data.draw(st.sampled_from(flow.nodes))
    kept = data.draw(st.integers(0, 3))
    held = flow.without(node, kept)
    consumers = flow.consumers[node]
    for number, before in enumerate(flow.inputs):
        expected = tuple(one for one in before if one != node) if number in consumers[kept:] else before
        assert held.inputs[number] == expected


def ladder(depth: int, side: int | None = None, branch: int = 3) -> Flow:
    """A residual stream: node 0, and ``depth`` blocks of a branch of some nodes and an addition; ``side`` is used by all."""
    inputs: list[tuple[int, ...]] = [()]
    stream = 0
    for _ in range(depth):
        first = len(inputs)
        inputs += [(stream,) if side is None else tuple(sorted({side, stream}))]
        inputs += [(first + number,) for number in range(branch - 1)]
        inputs += [(stream, len(inputs) - 1)]
        stream = len(inputs) - 1
    return Flow(tuple(inputs), frozenset([0]), stream)


@pytest.mark.parametrize("depth", [1, 2, 7, 40])
def test_a_residual_stream_has_a_join_for_each_addition(depth: int) -> None:
    flow = ladder(depth)
    additions = tuple(4 * block for block in range(1, depth + 1))
    assert flow.joins == additions
    assert flow.cuts == (0, *additions)
    assert hold_side_inputs(flow) == (flow, ())  # nothing hides them, nothing is held


def test_a_value_used_along_the_depth_is_found_and_held() -> None:
    flow = ladder(10, side=0)
    assert flow.joins == (40,)  # the value goes around every addition but the last
    held, sides = hold_side_inputs(flow)
    assert [side.node for side in sides] == [0]
    assert set(range(8, 41, 4)) <= set(held.joins)
    assert len(held.joins) >= 9


def test_a_value_that_may_not_be_held_is_not() -> None:
    flow = ladder(10, side=0)
    assert hold_side_inputs(flow, fixed=[0]) == (flow, ())


def test_a_dense_network_keeps_its_region_without_cuts() -> None:
    """Every node takes all before it: no single value can be held that would leave a stream."""
    inputs = tuple(tuple(range(node)) for node in range(12))
    flow = Flow(inputs, frozenset([0]), 11)
    assert flow.cuts == (0, 11)
    assert largest_region(flow) == (0, 11)
    held, sides = hold_side_inputs(flow)
    assert len(held.joins) < 5
    assert all(isinstance(side, SideInput) for side in sides)


def test_what_does_not_depend_on_a_source_has_no_nodes() -> None:
    flow = Flow(((), (), (1,)), frozenset([0]), 2)
    assert (flow.nodes, flow.cuts, flow.joins, flow.regions) == ((), (), (), ())


def test_several_sources_start_before_all_nodes() -> None:
    """Two sources that meet: only what comes after both is a cut."""
    flow = Flow(((), (), (0, 1), (2,)), frozenset([0, 1]), 3)
    assert flow.cuts == (2, 3)
    assert flow.regions[0] == (-1, 2)
