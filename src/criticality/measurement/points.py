"""Where the residual stream is: found for timm vision transformers, named by the user for any other model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

Points = Sequence[str] | Callable[[nn.Module], Sequence[str] | None] | None
"""Names of modules, each standing for its output, or ``name:input`` for its input; or a function that returns them or
``None``."""


_LISTS = ("blocks", "layers", "layer", "h")


@dataclass(frozen=True)
class ResidualPoint:
    """The input or the output of one module, seen as a point of the residual stream."""

    name: str
    module: nn.Module
    side: Literal["input", "output"]

    def __str__(self) -> str:
        return f"{self.name}:input" if self.side == "input" else self.name


def residual_points(model: nn.Module, points: Points = None) -> list[ResidualPoint]:
    """The points of the residual stream of ``model``, in order, ``depth + 1`` of them.

    Without ``points``: the input of the first and the output of each block, where blocks are in a list of
    modules named ``blocks`` (timm), ``layers``, ``layer`` or ``h`` (Hugging Face); of several lists the longest.

    Raises:
        ValueError: no stream is found, fewer than two points are given, or a name is not a module of the model.
    """
    if callable(points):
        points = points(model)
    if points is None:
        name, blocks = find_blocks(model)
        points = [f"{name}.0:input", *(f"{name}.{i}" for i in range(len(blocks)))]
    if isinstance(points, str) or len(points) < 2:
        raise ValueError(f"points={points!r} must name at least two modules of the residual stream")
    return [_point(model, str(point)) for point in points]


def find_blocks(model: nn.Module) -> tuple[str, nn.Sequential | nn.ModuleList]:
    """Name and list of the blocks on the residual stream: of lists with the usual names the longest.

    Raises:
        ValueError: there is none.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and name.rpartition(".")[2] in _LISTS and len(module) > 0
    ]
    if not found:
        raise ValueError(
            f"model {type(model).__name__} must have a residual stream in a list of blocks named"
            f" {', '.join(repr(name) for name in _LISTS)}; for others give points=['name of module', ...]"
        )
    return max(found, key=lambda entry: len(entry[1]))


def _point(model: nn.Module, point: str) -> ResidualPoint:
    name, _, side = point.partition(":")
    if side not in ("", "input", "output"):
        raise ValueError(f"point {point!r} must end in ':input', ':output' or nothing")
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ValueError(
            f"point {point!r} must name a module of {type(model).__name__}, which has no {name!r}"
        ) from None
    return ResidualPoint(name, module, "input" if side == "input" else "output")
