"""Which points of a stream are measured: those found, or modules that the user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from criticality.arguments import check
from criticality.errors import StreamNotFoundError
from criticality.stream import Chain, Point, Trace, named_points

Points = Sequence[str] | Literal["sublayers"] | Callable[[nn.Module], Sequence[str] | None] | None
"""Names of modules, each standing for its output, or ``name:input`` for its input; ``"sublayers"`` for every point of the
stream, halves of blocks included; ``None`` for the boundaries of blocks; or a function of the model that returns one of
these."""


def resolved(model: nn.Module, points: Points) -> tuple[Sequence[str] | None, bool]:
    """Points with a function of the model called, and whether they are those of a residual stream that must be found."""
    given = points(model) if callable(points) else points
    check(Sequence[str] | str | None, "points", given)
    return given, given is None or given == "sublayers"


def points_asked_for(
    model: nn.Module, found: Trace, points: Points, chain: str | None = None
) -> tuple[list[Point], Chain | None]:
    """Points in order, and the chain that they are of; ``None`` for modules that the user names.

    Raises:
        StreamNotFoundError: fewer than two points, a name that is not a module of the model, a chain that is not there.
    """
    points, _ = resolved(model, points)
    if points is None or points == "sublayers":
        of = chain_named(model, found, chain)
        return [point for point in of.points if points == "sublayers" or point.boundary], of
    if isinstance(points, str) or len(points) < 2:
        raise StreamNotFoundError(f"points={points!r} must name at least two modules of the residual stream")
    return named_points(found.layout, named_modules(model, points)), None


def named_modules(model: nn.Module, points: Sequence[Any]) -> list[tuple[str, str]]:
    """Name and side, ``input`` or ``output``, of each point.

    Raises:
        StreamNotFoundError: another side, or a name that is not a module of the model.
    """
    named = []
    for point in map(str, points):
        name, _, side = point.partition(":")
        if side not in ("", "input", "output"):
            raise StreamNotFoundError(f"point {point!r} must end in ':input', ':output' or nothing")
        try:
            model.get_submodule(name)
        except AttributeError:
            raise StreamNotFoundError(
                f"point {point!r} must name a module of {type(model).__name__}, which has no {name!r}"
            ) from None
        named.append((name, side or "output"))
    return named


def chain_named(model: nn.Module, found: Trace, name: str | None) -> Chain:
    if name is None:
        return found.chains[0]
    for chain in found.chains:
        if chain.name == name:
            return chain
    names = ", ".join(repr(chain.name) for chain in found.chains)
    raise StreamNotFoundError(f"chain={name!r} must be a residual stream of {type(model).__name__}: {names}")
