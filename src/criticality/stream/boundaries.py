"""Blocks of the residual stream: which of its points bound them, told by the modules that return points, that hold additions, or by
what repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from criticality.stream.flow import Flow
from criticality.stream.points import Layout, Point, Step

_LARGEST_BLOCK = 4
"""Steps of a block in which no module returns one."""


def points(layout: Layout, flow: Flow, found: Sequence[Step]) -> list[Point]:
    """The start of the stream and the end of every step, with their positions in blocks.

    A block is the outermost module that returns a point and in which no class of module returns two, and no sequence of steps
    repeats: a block of attention and MLP, not a stage of several blocks alike.  Where few points are returned by modules, it is
    the outermost module that a step is made in, by the same rule; where few are made in modules of their own, the steps that
    repeat are a block, or every step is.
    """
    ends = [step.end for step in found]
    kinds = {step.end: _branches(layout, flow, step) for step in found}
    units = _units(layout, found, kinds, returned=True)
    if _few(units):
        units = _units(layout, found, kinds, returned=False)
    if _few(units):
        period = _period([kinds[node] for node in ends])
        each = period if period <= _LARGEST_BLOCK else 1
        start, places = found[0].start, {node: number / each for number, node in enumerate(ends, 1)}
    else:
        start, places = _of_modules(layout, found, units)
    names = {
        unit.nodes[-1]: layout.record.visits[unit.visit].name
        for unit in units
        if unit.visit in layout.owners(unit.nodes[-1])
    }
    chosen = [(start, 0.0), *((node, round(place, 6)) for node, place in places.items())]
    return [Point(names.get(node) or layout.label(node), place, layout.shape(node), node) for node, place in chosen]


@dataclass(frozen=True)
class _Unit:
    """Points that belong together: those made in one visit, or a single one of no block (visit -1)."""

    visit: int
    nodes: tuple[int, ...]


def _few(units: Sequence[_Unit]) -> bool:
    """Whether less than half of the points are in blocks."""
    owned = sum(unit.visit >= 0 for unit in units)
    return not owned or 2 * owned < len(units)


def _of_modules(layout: Layout, found: Sequence[Step], units: Sequence[_Unit]) -> tuple[int, dict[int, float]]:
    """Where the stream starts, and the positions of the points after it; what is between two blocks belongs to the second."""
    first = next(unit for unit in units if unit.visit >= 0)
    bounds = {found[0].start, *(step.end for step in found)}
    start = next((node for node in _entered(layout, first.visit) if node in bounds), found[0].start)
    last = max(number for number, unit in enumerate(units) if unit.visit >= 0)
    skips = {step.end for step in found if step.residual}
    places: dict[int, float] = {}
    position, pending = 0.0, list[int]()
    for unit in units:
        if unit in units[last + 1 :] and not skips & set(unit.nodes):
            continue  # an addition in the head of the model
        pending += [node for node in unit.nodes if node > start]
        if unit.visit >= 0 or unit in units[last + 1 :]:
            for number, node in enumerate(pending, 1):
                places[node] = position + number / len(pending)
            position, pending = position + 1, []
    return start, places


def _branches(layout: Layout, flow: Flow, step: Step) -> tuple[str, ...]:
    """Classes of the modules that run between a point and the next: the same in whatever way products are computed."""
    record = layout.record
    around = set(record.ancestors(layout.visit(step.join)))
    inside = {layout.visit(node) for node in flow.inside(step.start, step.join)} - around - {-1}
    return tuple(record.visits[visit].kind for visit in sorted(inside))


def _period(kinds: Sequence[tuple[str, ...]]) -> int:
    """Length of the shortest sequence that all are repetitions of."""
    lengths = (length for length in range(1, len(kinds) + 1) if len(kinds) % length == 0)
    return next((one for one in lengths if all(kind == kinds[n % one] for n, kind in enumerate(kinds))), 1)


def _units(
    layout: Layout, found: Sequence[Step], kinds: Mapping[int, tuple[str, ...]], *, returned: bool
) -> list[_Unit]:
    """The points in order, those of a block together; with ``returned``, blocks are modules that return their last point."""
    units = [_Unit(-1, (step.end,)) for step in found]
    visits = layout.record.visits
    around = {
        visit
        for step in found
        for visit in (layout.owners(step.end) if returned else layout.record.ancestors(layout.visit(step.join)))
        if visits[visit].parent >= 0 and _holds(layout, step.join, visit)
        if returned
        or any(node < step.join for node in _entered(layout, visit))  # else it takes what was made out of sight
    }
    for visit in sorted(around, reverse=True):  # children before parents
        inside = [number for number, unit in enumerate(units) if _within(layout, unit, visit)]
        if not inside or inside != list(range(inside[0], inside[-1] + 1)):
            continue
        merged = units[inside[0] : inside[-1] + 1]
        if returned and visit not in layout.owners(merged[-1].nodes[-1]):
            continue
        classes = [visits[unit.visit].kind for unit in merged if unit.visit >= 0]
        alone = [kinds[unit.nodes[0]] for unit in merged if unit.visit < 0]
        repeated = len(alone) > max(2, min(_period(alone), _LARGEST_BLOCK))
        if len(set(classes)) == len(classes) and not repeated:
            nodes = tuple(node for unit in merged for node in unit.nodes)
            units[inside[0] : inside[-1] + 1] = [_Unit(visit, nodes)]
    return units


def _entered(layout: Layout, visit: int) -> list[int]:
    """Values that a module takes."""
    numbers = layout.graph.number
    return [numbers[node] for node in layout.record.visits[visit].entered if node in numbers]


def _within(layout: Layout, unit: _Unit, visit: int) -> bool:
    if unit.visit >= 0:
        return visit in layout.record.ancestors(unit.visit)
    return _holds(layout, unit.nodes[0], visit)


def _holds(layout: Layout, node: int, visit: int) -> bool:
    """Whether a value is made inside a visit."""
    return visit in layout.record.ancestors(layout.visit(node)) or visit in layout.owners(node)
