"""Initializers by the names that descriptions of models take, and the second moments they give without allocating a weight."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from criticality.arguments import checked, meant
from criticality.errors import CriticalityError
from criticality.weightless import initializing
from criticality.weightless.initializing import Initializer, default_axes

INITS = ("own", "timm", "fan-in")

_TRUNCATED_NORMAL = "_no_grad_trunc_normal_"


@checked
def initialize(blocks: Iterable[nn.Module], init: str) -> None:
    """Re-initialize modules in place: ``own`` (or ``timm``) leaves the model's own initialization, ``fan-in`` draws every
    weight matrix of the modules from N(0, 1/fan_in), fused and three-dimensional ones included, and sets their biases to 0.

    A weight is taken to sum over its last axis, a convolution's over all but its first, and transformers' ``Conv1D`` over
    its first; ``initialize_branches`` reads from the data flow what is summed over.

    Raises:
        ValueError: an unknown ``init``.
    """
    if init not in INITS:
        raise CriticalityError(f"init {init!r} is unknown{meant(init, INITS)}; allowed are {', '.join(INITS)}")
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
    """As ``criticality.weightless.initializing.initialize_branches``; ``timm`` says the same as ``own``.

    Raises:
        ValueError: an unknown ``init``; as that function.
    """
    if isinstance(init, str) and init not in INITS:
        raise CriticalityError(f"init {init!r} is unknown{meant(init, INITS)}; allowed are {', '.join(INITS)}")
    return initializing.initialize_branches(model, "own" if init == "timm" else init, inputs, under)


@dataclass(frozen=True)
class _Entries:
    """A distribution of entries, ``scale values + shift``; the values are shared between parameters."""

    values: np.ndarray
    scale: float = 1.0
    shift: float = 0.0

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> _Entries:
        return _Entries(function(self.scale * self.values + self.shift))


_UNKNOWN = _Entries(np.array([np.nan]))
_CONSTANT = np.zeros(1)


class InitializationRecorder(TorchDispatchMode):
    """Follows how parameters on the meta device are initialized, and knows their second moments.

    Inside the context every in-place operation on a meta tensor is replayed on the quantiles of its entries'
    distribution (65,536 of them), so that any initializer written as elementwise operations on ``uniform_`` and
    ``normal_`` (Xavier, Kaiming, truncated normal, ...) gives its exact second moment to about 1e-5, and no weight
    is ever allocated.
    """

    _QUANTILES = (np.arange(65536) + 0.5) / 65536

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[int, _Entries] = {}
        self._alive: list[Any] = []
        normal = special.ndtri(self._QUANTILES)
        self._normal = normal / np.sqrt(np.mean(normal**2))

    def __enter__(self) -> InitializationRecorder:
        # torch's own truncated normal does nothing on the meta device, so that it would be taken for not called.
        self._torch_truncated_normal = getattr(nn.init, _TRUNCATED_NORMAL)
        setattr(nn.init, _TRUNCATED_NORMAL, self._truncated_normal)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        setattr(nn.init, _TRUNCATED_NORMAL, self._torch_truncated_normal)
        super().__exit__(*exception)

    def _truncated_normal(
        self, tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> Tensor:
        if not tensor.is_meta:
            return self._torch_truncated_normal(tensor, mean, std, a, b, generator)
        low, high = (2 * float(special.ndtr((bound - mean) / std)) - 1 for bound in (a, b))
        with torch.no_grad():
            return tensor.uniform_(low, high).erfinv_().mul_(std * 2**0.5).add_(mean)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self._REPLAY and isinstance(args[0], Tensor) and args[0].is_meta:
            storage = args[0].untyped_storage()
            key = storage._cdata
            self._alive.append(storage)
            part = args[0].numel() * args[0].element_size() / max(1, storage.nbytes())
            before = self._entries.get(key, _UNKNOWN)
            if part == 1:
                self._entries[key] = self._replay(name, before, args[1:], kwargs or {})
            elif name == "zero_" or (name == "fill_" and float(args[1]) == 0.0):  # a padding row
                self._entries[key] = before.map(lambda x: x * np.sqrt(1 - part))
            else:
                self._entries[key] = _UNKNOWN
        return result

    _REPLAY = ("uniform_", "normal_", "zero_", "fill_", "erfinv_", "mul_", "div_", "add_", "sub_", "clamp_")

    def _replay(self, name: str, before: _Entries, args: Any, kwargs: Any) -> _Entries:
        numbers = [float(a) if a is not None and not (isinstance(a, Tensor) and a.is_meta) else None for a in args]
        if name in ("uniform_", "normal_"):
            first, second = _arguments(numbers, (0.0, 1.0))
            if name == "uniform_":
                return _Entries(self._QUANTILES, second - first, first)
            return _Entries(self._normal, second, first)
        if name in ("zero_", "fill_"):
            return _Entries(_CONSTANT, 0.0, numbers[0] or 0.0 if name == "fill_" else 0.0)
        if name == "erfinv_":
            return before.map(special.erfinv)
        if name == "clamp_":
            low, high = _arguments(numbers, (kwargs.get("min", -np.inf), kwargs.get("max", np.inf)))
            return before.map(lambda x: np.clip(x, low, high))
        number = numbers[0]
        if number is None:  # another tensor
            return _UNKNOWN
        if name in ("mul_", "div_"):
            factor = number if name == "mul_" else 1 / number
            return _Entries(before.values, before.scale * factor, before.shift * factor)
        step = number * float(kwargs.get("alpha", 1)) * (1 if name == "add_" else -1)
        return _Entries(before.values, before.scale, before.shift + step)

    def second_moment(self, parameter: Tensor) -> float:
        """Mean square of the entries of a parameter that was initialized inside the context.

        Raises:
            ValueError: when its initialization was not seen, or was not elementwise.
        """
        entries = self._entries.get(parameter.untyped_storage()._cdata, _UNKNOWN)
        moment = float(np.mean((entries.scale * entries.values + entries.shift) ** 2))
        if not np.isfinite(moment):
            raise ValueError(
                f"parameter of shape {tuple(parameter.shape)} must be initialized by elementwise in-place operations"
                " for its variance to be known on the meta device"
            )
        return moment


def _arguments(given: list[float | None], defaults: tuple[float, float]) -> tuple[float, float]:
    """Two positional arguments of which some may be left out."""
    padded = [*given, None, None]
    low, high = (default if value is None else value for value, default in zip(padded, defaults, strict=False))
    return low, high
