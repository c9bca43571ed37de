"""Initializers, and the second moments they give, with or without allocating a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SecondMoment = Callable[[Tensor], float]
"""Mean square of the entries of a parameter."""

INITS = ("timm", "fan-in")

_TRUNCATED_NORMAL = "_no_grad_trunc_normal_"


def initialize(model: nn.Module, init: str) -> None:
    """Re-initialize the blocks of a model in place: ``timm`` leaves the model's own initialization,
    ``fan-in`` draws every linear weight of ``model.blocks`` from N(0, 1/fan_in) and sets their biases to 0.

    Raises:
        ValueError: an unknown ``init``.
    """
    if init not in INITS:
        raise ValueError(f"init {init!r} is unknown; allowed are {', '.join(INITS)}")
    if init == "timm":
        return
    for module in model.get_submodule("blocks").modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def actual_second_moment(parameter: Tensor) -> float:
    """From the numbers that are there."""
    return float(parameter.detach().double().square().mean())


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
        self._entries: dict[int, np.ndarray] = {}
        self._alive: list[Any] = []
        self._normal = special.ndtri(self._QUANTILES)
        self._normal = self._normal / np.sqrt(np.mean(self._normal**2))

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
            whole = args[0].numel() * args[0].element_size() == storage.nbytes()
            before = self._entries.get(key)
            self._entries[key] = self._replay(name, before, args[1:], kwargs or {}) if whole else np.array([np.nan])
        return result

    _REPLAY = ("uniform_", "normal_", "zero_", "fill_", "erfinv_", "mul_", "div_", "add_", "sub_", "clamp_")

    def _replay(self, name: str, x: np.ndarray | None, args: Any, kwargs: Any) -> np.ndarray:
        values = [float(a) if a is not None and not (isinstance(a, Tensor) and a.is_meta) else None for a in args]
        if name == "uniform_":
            low, high = _arguments(values, (0.0, 1.0))
            return low + (high - low) * self._QUANTILES
        if name == "normal_":
            mean, std = _arguments(values, (0.0, 1.0))
            return mean + std * self._normal
        if name in ("zero_", "fill_"):
            return np.array([values[0] if name == "fill_" else 0.0])
        if x is None or (values and values[0] is None and name != "clamp_"):
            return np.array([np.nan])
        if name == "erfinv_":
            return special.erfinv(x)
        if name == "clamp_":
            low, high = _arguments(values, (kwargs.get("min", -np.inf), kwargs.get("max", np.inf)))
            return np.clip(x, low, high)
        operation = {"mul_": np.multiply, "div_": np.divide, "add_": np.add, "sub_": np.subtract}[name]
        return operation(x, values[0] * kwargs.get("alpha", 1))

    def second_moment(self, parameter: Tensor) -> float:
        """Mean square of the entries of a parameter that was initialized inside the context.

        Raises:
            ValueError: when its initialization was not seen, or was not elementwise.
        """
        entries = self._entries.get(parameter.untyped_storage()._cdata)
        if entries is None or not np.all(np.isfinite(entries)):
            raise ValueError(
                f"parameter of shape {tuple(parameter.shape)} must be initialized by elementwise in-place operations"
                " for its variance to be known on the meta device"
            )
        return float(np.mean(entries**2))


def _arguments(given: list[float | None], defaults: tuple[float, float]) -> tuple[float, float]:
    """Two positional arguments of which some may be left out."""
    padded = [*given, None, None]
    low, high = (default if value is None else value for value, default in zip(padded, defaults, strict=False))
    return low, high
