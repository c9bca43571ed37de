"""Where a backward pass starts: the kernel over tokens of the gradient at the end of the stream, for theory and measurement.

Equations: docs/theory, section 12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from criticality.arguments import check, shown
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np

    from criticality.shapes import Float

    Probe: TypeAlias = str | np.ndarray
else:
    np = lazy_module("numpy")
    Probe = Any  # when annotations are read: ``check_probe`` knows better

PROBES = ("normal", "pooled", "class", "loss")
"""Starts that have a name. ``normal``: independent gradients at all tokens, ``G = I``, which makes ``J`` the APJN. ``pooled``: one
gradient at all tokens, as mean pooling has it, ``G = 1 1^T``. ``class``: at the first token only. ``loss``: what the cross entropy
of random labels sends back from the model's own output, through its final norm and head. Any kernel ``G`` of shape
``(tokens, tokens)`` is a probe, too."""


def check_probe(probe: Probe) -> None:
    """Refuse what is not a probe.

    Raises:
        ValueError: another name; a kernel that is not square, symmetric, finite and positive semidefinite, or is 0.
    """
    if isinstance(probe, str):
        if probe not in PROBES:
            raise ArgumentError(
                f"probe={shown(probe)} must be one of {', '.join(map(repr, PROBES))}, or a kernel over tokens"
            )
        return
    check(np.ndarray, "probe", probe)
    kernel = np.asarray(probe, dtype=float)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not np.all(np.isfinite(kernel)):
        raise ArgumentError(
            f"probe must be a square matrix of finite numbers over tokens, got the shape {kernel.shape}"
        )
    size = float(np.abs(kernel).max(initial=0.0))
    if size == 0 or not np.allclose(kernel, kernel.T, rtol=0, atol=1e-9 * size):
        raise ArgumentError("probe must be a symmetric kernel over tokens, and not 0")
    lowest = float(np.linalg.eigvalsh(kernel)[0])
    if lowest < -1e-9 * size:
        raise ArgumentError(f"probe must be positive semidefinite, but has the eigenvalue {lowest:g}")


def probe_kernel(probe: Probe, tokens: int) -> Float[np.ndarray, "tokens tokens"]:
    """``G`` at the end of the stream, scaled to a mean diagonal of 1.

    Raises:
        ValueError: as ``check_probe``; ``loss``, whose kernel is that of a model; a kernel of another number of tokens.
    """
    check_probe(probe)
    if isinstance(probe, str):
        if probe == "loss":
            raise ArgumentError(
                "probe='loss' must be given as the kernel that a model's head sends back (output_kernels)"
            )
        if probe == "pooled":
            return np.ones((tokens, tokens))
        first = np.zeros((tokens, tokens))
        first[0, 0] = tokens
        return np.eye(tokens) if probe == "normal" else first
    kernel = np.array(probe, dtype=float)
    if len(kernel) != tokens:
        raise ArgumentError(f"probe must be a kernel of {tokens} tokens, got the shape {kernel.shape}")
    return kernel * tokens / np.trace(kernel)


def probe_name(probe: Probe) -> str:
    """For attributes of results."""
    return probe if isinstance(probe, str) else "kernel"
