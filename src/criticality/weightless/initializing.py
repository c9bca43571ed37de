"""Another initialization than the model's own, on real weights and on random ones alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from criticality.arguments import meant
from criticality.errors import InputsError
from criticality.initialized import Initialized, tell
from criticality.stream import trace
from criticality.stream.sharded import at_rest, gathered, is_sharded
from criticality.stream.untouched import untouched
from criticality.stream.weights import branch_weights
from criticality.weightless.building import settle
from criticality.weightless.entries import Player, playing
from criticality.weightless.weight import RandomWeight

__all__ = [
    "Axes",
    "Initializer",
    "default_axes",
    "fan_in",
    "initialize",
    "initialize_branches",
]

Axes: TypeAlias = "int | tuple[int, ...] | None"
"""The axes of a weight that its product sums over; ``None`` for a parameter that is in no product."""

Initializer: TypeAlias = Callable[[str, Tensor, int], object]
"""``(name, weight, fan_in)``; writes the weight in place, with ``torch.nn.init`` for instance."""

INITIALIZATIONS = ("own", "fan-in")

_TABLES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)


def fan_in(name: str, weight: Tensor, contracted_axis: Axes = -1) -> int:
    """How many products one output of a weight is the sum of: the number of entries along the axes that it sums over.

    Raises:
        InputsError: the weight has no such axis.
    """
    axes = (contracted_axis,) if isinstance(contracted_axis, int) else tuple(contracted_axis or ())
    if not axes or any(not -weight.dim() <= axis < weight.dim() for axis in axes):
        raise InputsError(
            f"parameter {name} of shape {tuple(weight.shape)} cannot be summed over axis {contracted_axis}"
        )
    return math.prod(weight.shape[axis] for axis in axes)


def default_axes(module: nn.Module, weight: Tensor) -> Axes:
    """What a weight sums over when its use is not known: nothing for tables, norms and vectors, all but the outputs for a
    convolution, otherwise the last axis.
    """
    if isinstance(module, _TABLES) or weight.dim() < 2 or weight.shape[0] == 1:
        return None
    if isinstance(module, _ConvTransposeNd):
        return (0, *range(2, weight.dim()))
    if isinstance(module, _ConvNd):
        return tuple(range(1, weight.dim()))
    return -1


@torch.no_grad()
def initialize(
    model: nn.Module, init: str | Initializer, *, axes: Mapping[str, Axes] | None = None, seed: int = 0
) -> dict[str, int]:
    """Re-initialize a model in place; the weights may be real or random ones.

    ``own`` leaves what is there. ``fan-in`` draws every weight from N(0, 1 / fan_in), fused and three-dimensional ones
    included, and sets the bias beside it to 0; where a part of a model is frozen, zeros that are trained stay, as they make an
    adapter nothing at first. A function is called with the name, the weight and its fan-in.

    Args:
        init: ``"own"``, ``"fan-in"`` or a function ``(name, weight, fan_in)``.
        axes: for each parameter name the axes that it sums over, read off the data flow; only these are written. By default all
            parameters that ``default_axes`` finds a product for.
        seed: of what is played on random weights; real weights take PyTorch's random numbers.

    Returns:
        The fan-in of each parameter that was written, by name.

    Raises:
        InputsError: an unknown ``init``, a name in ``axes`` that is no parameter, or an axis that the parameter does not have.
        UnknownLawError: the function does something to a random weight of more than 2^26 entries that needs its numbers.
    """
    if isinstance(init, str) and init not in INITIALIZATIONS:
        raise InputsError(
            f"init {init!r} is unknown{meant(init, INITIALIZATIONS)}; allowed are {', '.join(INITIALIZATIONS)} and a function"
        )
    if init == "own":
        return {}
    at_rest(model)
    adapted = not all(parameter.requires_grad for parameter in model.parameters())
    function = _draw_by_fan_in if isinstance(init, str) else init
    written: dict[str, int] = {}
    with playing(Player(seed, series=1)):
        for name, module, weight, contracted in _weights(model, axes):
            if adapted and weight.requires_grad and _is_zero(weight):
                continue
            written[name] = fan_in(name, weight, contracted)
            _written_by(function, name, weight, written[name])
            bias = getattr(module, name.rpartition(".")[2].replace("weight", "bias"), None)
            if init == "fan-in" and isinstance(bias, Tensor) and bias.dim() == 1 and bias is not weight:
                nn.init.zeros_(bias)
        settle(model)
    return written


def initialize_branches(
    model: nn.Module,
    init: str | Initializer,
    inputs: Any,
    under: Callable[[], AbstractContextManager[Any]] | None = None,
    seed: int = 0,
    chosen: Callable[[str], bool] = bool,
    axes: Mapping[str, Axes] | None = None,
) -> Initialized:
    """Re-initialize the weights of all branches of a model's residual streams, found and read in the data flow of one pass.

    Args:
        model: any that ``measure`` takes, or one without weights.
        init: as for ``initialize``.
        inputs: as for ``measure``.
        under: makes the context that the model runs in, for one that has no weights.
        seed: as for ``initialize``.
        chosen: whether a parameter is written, by its name.
        axes: ``branch_axes`` of a model that is built alike, which spares the pass.

    Returns:
        Fan-in of every parameter that was written, by name, and what was left.

    Raises:
        ValueError: as ``initialize``, and as ``measure``.
    """
    if init == "own":
        return Initialized(model, {})
    axes = branch_axes(model, inputs, under) if axes is None else axes
    used = {name: axis for name, axis in axes.items() if chosen(name)}
    return tell(Initialized(model, initialize(model, init, axes=used, seed=seed)))


def branch_axes(
    model: nn.Module, inputs: Any, under: Callable[[], AbstractContextManager[Any]] | None = None
) -> dict[str, Axes]:
    """For each weight in a branch, by name, the axes that it sums over; arguments and errors as for ``initialize_branches``."""
    with untouched(model):
        found = trace(model, inputs, under=under() if under else None)
    axes: dict[str, Axes] = {}
    for chain in found.chains:
        axes |= branch_weights(model, found, chain)
    return axes


def _is_zero(weight: Tensor) -> bool:
    if isinstance(weight, RandomWeight):
        return weight.law.second_moment == 0
    return not bool(gathered(weight).any())


def _written_by(function: Initializer, name: str, weight: Tensor, fan: int) -> None:
    """Of a sharded weight all is drawn, and each process keeps its part of what the first one drew."""
    if not is_sharded(weight):
        function(name, weight, fan)
        return
    from torch.distributed.tensor import distribute_tensor

    whole = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    function(name, whole, fan)
    weight.copy_(distribute_tensor(whole, weight.device_mesh, weight.placements))  # type: ignore[attr-defined]


def _draw_by_fan_in(name: str, weight: Tensor, fan: int) -> None:
    nn.init.normal_(weight, std=fan**-0.5)


def _weights(model: nn.Module, axes: Mapping[str, Axes] | None) -> list[tuple[str, nn.Module, Tensor, Axes]]:
    found: list[tuple[str, nn.Module, Tensor, Axes]] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        for short, weight in module.named_parameters(recurse=False):
            name = f"{path}.{short}" if path else short
            contracted = default_axes(module, weight) if axes is None else axes.get(name)
            if contracted is not None and id(weight) not in seen:
                found.append((name, module, weight, contracted))
            if contracted is not None or axes is None:  # a tied weight is what its first owner says
                seen.add(id(weight))
    unknown = set(axes or {}) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if unknown:
        raise InputsError(f"{min(unknown)} is no parameter of the model")
    return found
