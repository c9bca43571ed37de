"""Dynamic Tanh and Dynamic erf for training: one saved tensor, and on the CPU one pass over memory.

The input is saved and everything else is computed again on the way back, as cheap as it is.  On the CPU, in float32, a C
kernel does both ways; it is compiled once for the machine and kept in the user's cache, and where there is no compiler,
on other devices and in other types, torch's own operations do the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_ENTRIES_PER_THREAD = 32768  # fewer are not worth waking a thread for
_TWO_OVER_ROOT_PI = 1.1283791670955126

FUSED = ("tanh", "erf")
"""Functions that have a kernel."""

_VALUE: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "erf": torch.erf}


def plain(function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """The formula, in torch's own operations."""
    u = alpha * x
    return _VALUE[function](u if shift is None else u + shift) * weight + bias


def dynamic(function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """``weight phi(alpha x + shift) + bias`` over the last axis, with gradients of all that is given.

    Under ``torch.compile``, the transforms of ``torch.func`` and forward-mode differentiation it is the plain formula.
    """
    if (
        torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in (x, alpha, weight))
    ):
        return plain(function, x, alpha, shift, weight, bias)
    result: Tensor = _Dynamic.apply(function, x, alpha, shift, weight, bias)
    return result


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, alpha, shift, weight, bias)
        library = kernel() if _fits(x, weight) else None
        if library is None:
            return plain(function, x, alpha, shift, weight, bias)
        out = torch.empty_like(x)
        columns = x.shape[-1]
        getattr(library, f"{function}_forward")(
            x.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr(),
            float(alpha),
            0.0 if shift is None else float(shift),
            x.numel() // max(1, columns),
            columns,
            _threads(x),
            out.data_ptr(),
        )
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, shift, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again
            given = [
                t for t, needed in zip((x, alpha, shift, weight, bias), ctx.needs_input_grad[1:], strict=True) if needed
            ]
            found = iter(
                torch.autograd.grad(plain(ctx.function, x, alpha, shift, weight, bias), given, g, create_graph=True)
            )
            return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])
        g = g.contiguous()
        library = kernel() if _fits(x, weight) and g.dtype == torch.float32 else None
        step = _kernel_backward if library is not None else _torch_backward
        by_x, by_weight, by_bias, by_alpha, by_shift = step(ctx.function, x, g, alpha, shift, weight)
        gradients = (by_x, by_alpha, by_shift, by_weight, by_bias)
        return None, *(
            (gradient if gradient.shape == t.shape else gradient.reshape(t.shape)).to(t.dtype)
            if needed and t is not None
            else None
            for gradient, t, needed in zip(
                gradients, (x, alpha, shift, weight, bias), ctx.needs_input_grad[1:], strict=True
            )
        )


Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""By input, weight, bias, alpha and shift."""


def _kernel_backward(
    function: str, x: Tensor, g: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor
) -> Gradients:
    by_x = torch.empty_like(x)
    columns = x.shape[-1]
    by_weight, by_bias, scalars = torch.empty(columns), torch.empty(columns), torch.empty(2)
    failed = getattr(kernel(), f"{function}_backward")(
        x.data_ptr(),
        g.data_ptr(),
        weight.data_ptr(),
        float(alpha),
        0.0 if shift is None else float(shift),
        x.numel() // max(1, columns),
        columns,
        _threads(x),
        by_x.data_ptr(),
        by_weight.data_ptr(),
        by_bias.data_ptr(),
        scalars.data_ptr(),
    )
    if failed:
        raise MemoryError("the kernel of dynamic normalizers found no memory for its sums")
    return by_x, by_weight, by_bias, scalars[:1], scalars[1:]


def _torch_backward(
    function: str, x: Tensor, g: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor
) -> Gradients:
    u = alpha * x
    u = u if shift is None else u + shift
    value = _VALUE[function](u)
    slope = 1 - value * value if function == "tanh" else _TWO_OVER_ROOT_PI * torch.exp(-u * u)
    columns = x.shape[-1]
    s = g * weight * slope
    by_weight, by_bias = (g * value).reshape(-1, columns).sum(0), g.reshape(-1, columns).sum(0)
    return alpha * s, by_weight, by_bias, (s * x).sum(), s.sum()


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes this input."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.ndim > 0
        and x.shape[-1] == weight.numel()
    )


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // _ENTRIES_PER_THREAD))


@cache
def kernel() -> Any:
    """The compiled kernel, or ``None`` where there is no C compiler or no place to keep it.

    ``CRITICALITY_KERNEL=0`` in the environment does without.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get("CRITICALITY_KERNEL") == "0":
        return None
    source = files("criticality.models").joinpath("fused.c").read_bytes()
    key = hashlib.sha256(source + repr((compiler, platform.node(), platform.processor())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "criticality"
    path = folder / f"fused-{key}.so"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, source, path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, number, count = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64
    sizes = [pointer] * 3 + [number] * 2 + [count] * 2 + [ctypes.c_int32]
    for function in FUSED:
        getattr(library, f"{function}_forward").argtypes = [*sizes, pointer]
        getattr(library, f"{function}_backward").argtypes = [*sizes, *[pointer] * 4]
        getattr(library, f"{function}_forward").restype = None
    return library


def _compile(compiler: str, source: bytes, path: Path) -> None:
    """OpenMP is left to be found when the library is loaded: torch has loaded its own, whose threads then serve both."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        code, object_file, built = (Path(scratch) / f"fused.{ending}" for ending in ("c", "o", "so"))
        code.write_bytes(source)
        flags = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC"]
        for step in (
            [compiler, *flags, "-c", str(code), "-o", str(object_file)],
            [compiler, "-shared", str(object_file), "-o", str(built), "-lm"],
        ):
            subprocess.run(step, check=True, capture_output=True, timeout=120)
        os.replace(built, path)
