"""Run a small module on random numbers, with parameters of one's choice, without touching it."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from criticality.errors import ArgumentError
from criticality.randomness import forked

LARGEST = 2**18
"""Entries of a parameter; a module with a larger one is not probed."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Probe:
    """A copy of a module in evaluation mode, in single precision on the CPU, with random parameters: ``(shape) -> (shape)``.

    Works for modules on the meta device and for weights that are known by their law: no number of theirs is read.

    Attributes:
        values: of the parameters, positive, by name.

    Raises:
        ValueError: the module is too large for it.
    """

    def __init__(self, module: nn.Module):
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        if any(torch.Size(shape).numel() > LARGEST for shape in shapes.values()):
            raise ArgumentError("a module with a large parameter is no norm")
        self._generator = torch.Generator().manual_seed(0)
        self.values = {name: 0.5 + self.uniform(shape) for name, shape in shapes.items()}
        self._module = module

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Between 0 and 1."""
        return torch.rand(shape, generator=self._generator, device="cpu", dtype=torch.float32)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self._generator, device="cpu", dtype=torch.float32)

    def __call__(self, x: Tensor, changes: dict[str, Tensor] | None = None, training: bool = False) -> Tensor:
        """The output, as far as it is one tensor.

        Raises:
            Exception: whatever the module raises; TypeError when it returns no floating tensor.
        """
        copied = _copied(self._module, "", {**self.values, **(changes or {})}, training)
        output = copied(x.clone())
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise TypeError("a norm returns one floating tensor")
        return output.detach().to(torch.float32)

    def steady(self, x: Tensor, call: Callable[[Tensor], Tensor]) -> bool:
        """Whether an output keeps the shape of its input."""
        try:
            return call(x).shape == x.shape
        except Exception:  # somebody's own code, run on what it need not take
            return False


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context without modes, gradients and warnings, which leaves the random state of the CPU as it was."""
    with (
        warnings.catch_warnings(),
        forked([]),
        torch.inference_mode(False),
        torch.no_grad(),
        _disable_current_modes(),
        torch._C.DisableTorchFunction(),
        torch.autocast("cpu", enabled=False),
    ):
        warnings.simplefilter("ignore")
        yield


def _copied(module: nn.Module, path: str, values: dict[str, Tensor], training: bool) -> nn.Module:
    """The same module with other parameters, buffers of its own, no hooks."""
    shadow = copy.copy(module)
    own: dict[str, Any] = dict(shadow.__dict__)
    own.pop("forward", None)  # bound to the original
    own["_parameters"] = {
        name: None if parameter is None else values.get(path + name) for name, parameter in module._parameters.items()
    }
    own["_buffers"] = {
        name: None if buffer is None else _real(name, buffer) for name, buffer in module._buffers.items()
    }
    own["_modules"] = {
        name: None if child is None else _copied(child, f"{path}{name}.", values, training)
        for name, child in module._modules.items()
    }
    own |= {hooks: OrderedDict() for hooks in _HOOKS if hooks in own}
    own["training"] = training
    shadow.__dict__ = own
    return shadow


def _real(name: str, buffer: Tensor) -> Tensor:
    """A copy in memory; of one that has no numbers those that running statistics start with."""
    dtype = torch.float32 if buffer.is_floating_point() else buffer.dtype
    if buffer.is_meta or type(buffer) is not Tensor:
        start = torch.ones if "var" in name else torch.zeros
        return start(tuple(buffer.shape), dtype=dtype, device="cpu")
    return buffer.detach().to("cpu", dtype, copy=True)
