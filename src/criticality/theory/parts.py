"""One walk over descriptions, nested frozen dataclasses and tuples: it scales weights, changes norms, averages seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

P = TypeVar("P")

DESCEND = object()
"""What ``visit`` returns for a part whose own parts are to be visited."""


def rebuilt(visit: Callable[..., Any], *parts: Any, once: bool = True) -> Any:
    """The first of ``parts`` with what ``visit`` returns in the place of its parts.

    Args:
        visit: called with a part of each of ``parts``, beginning with themselves; where it returns ``DESCEND`` their fields are
            visited in the order in which values reach them (``in_flow``), and a part without any stays as it is.
        parts: alike in structure.
        once: what is one object is visited once and stays one, as sub-layers of blocks that are alike; otherwise at each place.
    """
    done: dict[tuple[int, ...], Any] = {}

    def walk(*parts: Any) -> Any:
        key = tuple(map(id, parts))
        if key in done:
            return done[key]
        found = visit(*parts)
        if found is DESCEND:
            found = descended(*parts)
        if once:
            done[key] = found
        return found

    def descended(first: Any, *others: Any) -> Any:
        if isinstance(first, tuple):
            return tuple(walk(*column) for column in zip(first, *others, strict=True))
        if not is_dataclass(first) or isinstance(first, type):
            return first
        changes = {}
        for name in _names(type(first), getattr(first, "in_flow", ())):
            old = getattr(first, name)
            new = walk(old, *(getattr(other, name) for other in others))
            if new is not old:
                changes[name] = new
        return replace(first, **changes) if changes else first

    return walk(*parts)


def parts_of(part: Any, kind: type[P], *, once: bool = True) -> list[P]:
    """What a description holds of a class, in the order in which values reach it; ``once`` as for ``rebuilt``."""
    found: list[P] = []

    def visit(one: Any) -> Any:
        if not isinstance(one, kind):
            return DESCEND
        found.append(one)
        return one

    rebuilt(visit, part, once=once)
    return found


@cache
def _names(kind: Any, in_flow: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*in_flow, *(f.name for f in fields(kind) if f.init)]))
