"""Which allocations become random weights, and with what in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from criticality.weightless.entries import player
from criticality.weightless.storage import Geometry, Piece, Storage

Contents = Callable[[dict[str, Any]], tuple[str, tuple[float, ...]]]


def _constant(value: float) -> Contents:
    return lambda given: ("constant", (value,))


CREATIONS: dict[str, Contents] = {
    **dict.fromkeys(("empty", "empty_strided", "empty_permuted", "empty_like"), _constant(math.nan)),
    **dict.fromkeys(("new_empty", "new_empty_strided"), _constant(math.nan)),
    **dict.fromkeys(("zeros", "new_zeros", "zeros_like"), _constant(0.0)),
    **dict.fromkeys(("ones", "new_ones", "ones_like"), _constant(1.0)),
    **dict.fromkeys(("full", "new_full", "full_like"), lambda given: ("constant", (float(given["fill_value"]),))),
    **dict.fromkeys(("rand", "rand_like"), lambda given: ("uniform", ())),
    **dict.fromkeys(("randn", "randn_like"), lambda given: ("normal", ())),
    "normal.float_float": lambda given: ("normal", (given["mean"], given["std"])),
}
"""Operation that allocates -> distribution of what is then in memory; everything else that returns a tensor computes it."""

_PLACING = ("device", "generator", "pin_memory")


@cache
def contents_of(func: Any) -> Contents | None:
    """The entry of ``CREATIONS`` for an operation, if it allocates."""
    return CREATIONS.get(func.overloadpacket.__name__) or CREATIONS.get(str(func).removeprefix("aten."))


def created(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What one of ``CREATIONS`` returns: a random weight when it is floating and has at least ``player().at_least`` entries,
    else a real tensor.  Memory that nothing is written to is nan, which shows what is never initialized.
    """
    from criticality.weightless.playing import as_meta
    from criticality.weightless.weight import RandomWeight

    first = args[0] if args and isinstance(args[0], Tensor) else None
    device = torch.device(kwargs.get("device") or (first.device if first is not None else "cpu"))
    placeless = {name: value for name, value in kwargs.items() if name not in _PLACING}
    if "generator" in kwargs:  # overloads that have one ask for it
        placeless["generator"] = None
    meta_args = args if first is None else tree_map_only(Tensor, as_meta, args)
    out = func(*meta_args, **placeless, device="meta")
    if device.type == "meta":
        return out
    contents = contents_of(func)
    assert contents is not None
    distribution, parameters = contents(_arguments(func, args, kwargs))
    if is_large(out):
        pieces = [Piece(out.numel(), player().draw(distribution, *parameters))]
        memory = Storage(out.numel(), out.dtype, device, pieces)
        geometry = Geometry.of(out)
        return RandomWeight(memory, geometry if geometry.distinct else Geometry.of(out.contiguous()))
    real = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=device)
    return _fill(real, distribution, parameters, kwargs.get("generator"))


def is_large(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() >= player().at_least


def _fill(real: Tensor, distribution: str, parameters: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    if distribution == "constant":
        unwritten = math.isnan(parameters[0])
        return real if unwritten and not real.is_floating_point() else real.fill_(parameters[0])
    return getattr(real, f"{distribution}_")(*parameters, generator=generator)


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}
