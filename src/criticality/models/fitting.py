"""Models by name that are asked for larger than memory: refused before they are built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from criticality.errors import CriticalityError
from criticality.memory import require_memory

_DEEP, _WIDE = 256, 8192
"""Sizes up to which nothing is counted."""

_MODULE = 2000
"""Bytes of a module of torch without its weights: 2,600 were measured."""


def require_fit(spec: Any, weights: bool) -> None:
    """Refuse a depth or a width of which the modules, or the weights, exceed the memory of this machine.

    Counted are models of one and of two blocks on ``meta``, so that weights which blocks share count once.

    Raises:
        ArgumentError: naming depth or width.
    """
    depth, width = spec.depth, spec.width
    if (depth or 1) <= _DEEP and (width or 1) <= _WIDE:
        return
    depths = (None, None) if depth is None else (1, 2)
    try:
        small = [replace(spec, depth=one, norm=None, alpha=None, init="own").create("meta") for one in depths]
    except CriticalityError:
        return  # said when it is built
    sizes = [
        sum(_MODULE for _ in model.modules()) + (4 * sum(p.numel() for p in model.parameters()) if weights else 0)
        for model in small
    ]
    asked = f"depth={depth!r}" if depth is not None and (depth > _DEEP or width is None) else f"width={width!r}"
    require_memory(sizes[0] + ((depth or 1) - 1) * (sizes[1] - sizes[0]), asked)
