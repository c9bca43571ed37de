"""Gradients at the end of the stream: random ones of a kernel over tokens, or those that a loss sends back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from criticality.errors import InputsError
from criticality.measurement.statistics import Axes
from criticality.probes import Probe, probe_kernel


def normal_probe(shape: Sequence[int], seed: int, number: int, like: Tensor) -> Tensor:
    """Standard normal, the same on every device."""
    return _normal(shape, seed, number).to(like)


def token_probe(probe: Probe, shape: Sequence[int], axes: Axes | None, seed: int, number: int, like: Tensor) -> Tensor:
    """Gaussian over channels and samples, of the kernel of ``probe`` over tokens; the shape is that of the stream.

    Raises:
        ValueError: as ``probe_kernel``.
    """
    u = _normal(shape, seed, number)
    if isinstance(probe, str) and probe == "normal":
        return u.to(like)
    x = u if axes is None else u.movedim((axes.batch, axes.channels), (0, -1))
    if x.ndim < 3:  # one token
        probe_kernel(probe, 1)
        return u.to(like)
    rows = x.flatten(1, -2)
    rows = torch.einsum("ab,nbc->nac", torch.as_tensor(_root(probe, rows.shape[1]), device="cpu").to(rows), rows)
    x = rows.reshape(x.shape)
    return (x if axes is None else x.movedim((0, -1), (axes.batch, axes.channels))).to(like)


def loss_gradient(output: Tensor, seed: int, number: int) -> Tensor:
    """``softmax(output) - onehot(label)`` along the last axis, a label drawn evenly for each row: the gradient of a cross entropy.

    Raises:
        InputsError: an output with a last axis of one entry, which has no classes.
    """
    scores = output.detach()
    if scores.ndim == 0 or scores.shape[-1] < 2:
        raise InputsError(
            f"probe='loss' must have an output whose last axis holds two classes or more, got {tuple(scores.shape)}"
        )
    labels = torch.randint(scores.shape[-1], scores.shape[:-1], generator=_generator(seed, number), device="cpu")
    gradient = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1)
    one = torch.ones((), dtype=gradient.dtype, device=gradient.device)
    taken = labels.to(gradient.device)[..., None]
    return gradient.scatter_add(-1, taken, -one.expand(taken.shape)).to(scores.dtype)


def _normal(shape: Sequence[int], seed: int, number: int) -> Tensor:
    return torch.randn(tuple(shape), generator=_generator(seed, number), dtype=torch.float32, device="cpu")


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed((1_000_003 * seed + number) % 2**63)


def _root(probe: Probe, tokens: int) -> np.ndarray:
    """``R`` with ``R R^T`` the kernel of the probe."""
    values, vectors = np.linalg.eigh(probe_kernel(probe, tokens))
    root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
