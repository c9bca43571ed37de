"""Initializers by the names that descriptions of models take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from criticality.arguments import check, checked, meant
from criticality.errors import ArgumentError
from criticality.initialized import Initialized
from criticality.models.patterns import Patterns
from criticality.stream import trace
from criticality.stream.untouched import untouched
from criticality.stream.weights import branch_weights
from criticality.weightless import initializing
from criticality.weightless.initializing import Initializer, default_axes

INITS = initializing.INITIALIZATIONS

_RENAMED = {"timm": "own"}


def check_init(init: str) -> None:
    """
    Raises:
        ArgumentError: an unknown ``init``.
    """
    if init not in INITS:
        renamed = f"; {init!r} is now called {_RENAMED[init]!r}" if init in _RENAMED else ""
        raise ArgumentError(f"init {init!r} is unknown; allowed are {', '.join(INITS)}{renamed or meant(init, INITS)}")


@checked
def initialize(blocks: Iterable[nn.Module], init: str) -> None:
    """Re-initialize modules in place: ``own`` leaves the model's own initialization, ``fan-in`` draws every
    weight matrix of the modules from N(0, 1/fan_in), fused and three-dimensional ones included, and sets their biases to 0.

    A weight is taken to sum over its last axis, a convolution's over all but its first, and transformers' ``Conv1D`` over
    its first; ``initialize_branches`` reads from the data flow what is summed over.

    Raises:
        ValueError: an unknown ``init``.
    """
    check_init(init)
    if init != "fan-in":
        return
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    for number, block in enumerate(blocks):
        check(nn.Module, f"blocks[{number}]", block)
        axes: dict[str, Any] = {}
        for path, module in block.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                contracted = default_axes(module, parameter)
                if pytorch_utils is not None and isinstance(module, pytorch_utils.Conv1D):
                    contracted = 0 if parameter.ndim == 2 else None
                if contracted is not None:
                    axes[f"{path}.{name}" if path else name] = contracted
        initializing.initialize(block, init, axes=axes)


@checked
def initialize_branches(
    model: nn.Module,
    init: str | Initializer,
    inputs: Any,
    under: Callable[[], AbstractContextManager[Any]] | None = None,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = ("*",),
    strict: bool = False,
) -> Initialized:
    """Re-initialize the weights of all branches of a model's streams, as the data flow of one pass uses them.

    Args:
        model, init, inputs, under: as ``criticality.weightless.initializing.initialize_branches`` has them.
        keep, only: patterns of parameters (names, globs, ``re:...``) that are left, and that are drawn.
        strict: refuse a model of whose blocks a weight matrix would be left that ``keep`` and ``only`` do not name.

    Returns:
        What was drawn, and what was left: printed, a line with the counts and one for each name left.

    Raises:
        ValueError: an unknown ``init``, a pattern without a match; as that function. Nothing is drawn then.
    """
    if isinstance(init, str):
        check_init(init)
    patterns = Patterns(keep, only)
    patterns.check([name for name, _ in model.named_parameters()], f"a parameter of {type(model).__name__}")

    def chosen(name: str) -> bool:
        return not patterns.left_out(name)

    if strict and init != "own":
        _check_all(model, inputs, under, chosen)
    return initializing.initialize_branches(model, init, inputs, under, chosen=chosen)


def initialize_described(description: Any, model: nn.Module) -> None:
    """``initialize_branches`` of a model that ``description`` has built, by its ``init`` and on its ``inputs()``.

    What the weights sum over is read from the first model of a description: those of other seeds are built alike.
    """
    if description.init == "own":
        return
    if description not in _AXES:
        _AXES[description] = initializing.branch_axes(model, description.inputs())
    initializing.initialize_branches(model, description.init, None, axes=_AXES[description])


_AXES: WeakKeyDictionary[Any, dict[str, initializing.Axes]] = WeakKeyDictionary()


def _check_all(
    model: nn.Module,
    inputs: Any,
    under: Callable[[], AbstractContextManager[Any]] | None,
    chosen: Callable[[str], bool],
) -> None:
    """Refuse a model of whose blocks a chosen weight matrix is not found in a branch; nothing is drawn."""
    with untouched(model):
        found = trace(model, inputs, under=under() if under else None)
    used = {name for chain in found.chains for name in branch_weights(model, found, chain)}
    left = [name for name in Initialized(model, dict.fromkeys(used, 0)).beside if chosen(name)]
    if left:
        raise ArgumentError(
            f"model {type(model).__name__} must have every weight of its blocks in a branch, and {len(left)} are in none,"
            f" such as {left[0]!r}; name them in keep"
        )
