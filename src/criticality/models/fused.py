"""Dynamic Tanh and Dynamic erf for training with one saved tensor, and, if asked for, one pass over memory.

The input is saved and everything else is computed again on the way back, as cheap as it is, by torch's own operations.
With ``CRITICALITY_KERNEL=1`` in the environment a C kernel does both ways on the CPU, in float32; it is compiled once for the
machine and kept in the user's cache.  It is off unless asked for, as it reads memory by address: of tensors that do not
fit it exactly (``_fits``), and where there is no compiler, torch's operations do the work.
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
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

_ENTRIES_PER_THREAD = 32768  # fewer are not worth waking a thread for
_TWO_OVER_ROOT_PI = 1.1283791670955126

FUSED = ("tanh", "erf")
"""Functions that are computed with one saved tensor, and have a kernel."""

_VALUE: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "erf": torch.erf}


def plain(function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """The formula, in torch's own operations."""
    u = alpha * x
    return _VALUE[function](u if shift is None else u + shift) * weight + bias


def dynamic(function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """``weight phi(alpha x + shift) + bias`` over the last axis, with gradients of all that is given.

    Whatever looks into the operations (``torch.compile``, export, tracing, fake tensors and other modes and subclasses of
    tensors, the transforms of ``torch.func``, forward-mode differentiation) gets the plain formula.
    """
    if _watched() or not _ordinary(x, alpha, shift, weight, bias):
        return plain(function, x, alpha, shift, weight, bias)
    result: Tensor = _Dynamic.apply(function, x, alpha, shift, weight, bias)
    return result


def _watched() -> bool:
    """Whether somebody wants to see each operation, or differentiates in another way than backwards."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _get_current_dispatch_mode() is not None
    )


def _ordinary(*tensors: Tensor | None) -> bool:
    """Whether these are tensors of torch itself, no subclasses."""
    return all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors if tensor is not None)


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, alpha, shift, weight, bias)
        library = kernel() if _fits(x, alpha, shift, weight, bias) else None
        if library is None:
            ctx.call = None
            return plain(function, x, alpha, shift, weight, bias)
        columns = weight.numel()
        sizes = (float(alpha), 0.0 if shift is None else float(shift), x.numel() // columns, columns, _threads(x))
        ctx.call, ctx.sizes = library[function, "backward"], sizes
        x = x.contiguous()  # patches that come from a convolution are not, and the stream after them is not either
        out = torch.empty_like(x)
        library[function, "forward"](x.data_ptr(), weight.data_ptr(), bias.data_ptr(), *sizes, out.data_ptr())
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, shift, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # differentiated again
            wanted = [t for t, need in zip((x, alpha, shift, weight, bias), needed, strict=True) if need]
            value = plain(ctx.function, x, alpha, shift, weight, bias)
            each = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return None, *(next(each) if need else None for need in needed)
        if ctx.call is not None and _readable(g) and g.shape == x.shape:
            gradients = _kernel_backward(ctx, x.contiguous(), g.contiguous(), alpha, weight)
        else:
            gradients = _torch_backward(ctx.function, x, g, alpha, shift, weight)
        return None, *(gradient if need else None for gradient, need in zip(gradients, needed, strict=True))


Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""By input, alpha, shift, weight and bias."""


def _kernel_backward(ctx: Any, x: Tensor, g: Tensor, alpha: Tensor, weight: Tensor) -> Gradients:
    by_x, by_weight, by_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    by_alpha, by_shift = torch.empty_like(alpha), torch.empty_like(alpha)
    out = (t.data_ptr() for t in (by_x, by_weight, by_bias, by_alpha, by_shift))
    if ctx.call(x.data_ptr(), g.data_ptr(), weight.data_ptr(), *ctx.sizes, *out):
        raise MemoryError("the kernel of dynamic normalizers found no memory for its sums")
    return by_x, by_alpha, by_shift, by_weight, by_bias


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
    by_alpha, by_shift = (s * x).sum().reshape(alpha.shape), s.sum().reshape(alpha.shape)
    return (
        (alpha * s).to(x.dtype),
        by_alpha.to(alpha.dtype),
        by_shift.to(alpha.dtype),
        by_weight.to(weight.dtype),
        by_bias.to(weight.dtype),
    )


def _fits(x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> bool:
    """Whether the kernel may read the memory of these tensors: each has memory, on the CPU, in float32, of the size it must
    have; parameters without gaps (of the input a copy without gaps is made).
    """
    parameters = [tensor for tensor in (alpha, shift, weight, bias) if tensor is not None]
    return (
        all(_readable(tensor) for tensor in (x, *parameters))
        and all(tensor.is_contiguous() for tensor in parameters)
        and alpha.numel() == 1
        and (shift is None or shift.numel() == 1)
        and weight.numel() > 0
        and x.shape[-1:] == weight.shape == bias.shape
    )


def _readable(tensor: Tensor) -> bool:
    return (
        _ordinary(tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not tensor.is_neg()
        and (tensor.numel() == 0 or tensor.untyped_storage().nbytes() > 0)  # one that was freed, as sharding does
    )


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // _ENTRIES_PER_THREAD))


def kernel() -> dict[tuple[str, str], Any] | None:
    """The compiled kernels by function and way (forward, backward).

    ``None`` unless the environment has ``CRITICALITY_KERNEL=1``, and without a C compiler or a place to keep them.
    """
    return _compiled() if os.environ.get("CRITICALITY_KERNEL") == "1" else None


@cache
def _compiled() -> dict[tuple[str, str], Any] | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
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
    calls = {}
    for function in FUSED:
        for way, outputs, returned in (("forward", 1, None), ("backward", 5, ctypes.c_int32)):
            call = getattr(library, f"{function}_{way}")
            call.argtypes, call.restype = [*sizes, *[pointer] * outputs], returned
            calls[function, way] = call
    return calls


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
