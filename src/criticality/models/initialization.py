"""Initializers by the names that descriptions of models take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from criticality.arguments import checked
from criticality.errors import ArgumentError
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
        raise ArgumentError(f"init {init!r} is unknown; allowed are {', '.join(INITS)}{renamed}")


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
    for block in blocks:
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
) -> dict[str, int]:
    """As ``criticality.weightless.initializing.initialize_branches``, by name.

    Raises:
        ValueError: an unknown ``init``; as that function.
    """
    if isinstance(init, str):
        check_init(init)
    return initializing.initialize_branches(model, init, inputs, under)
