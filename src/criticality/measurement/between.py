"""Partial Jacobian norms between any two points of the stream, in reverse and in forward mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from criticality.measurement.apjn import GradientNorms, normal_probe, squared_norm
from criticality.measurement.points import Points, residual_points
from criticality.measurement.stream import placed, run_stream, untouched
from criticality.schema import SCHEMA


def measure_between(
    model: nn.Module,
    inputs: Any,
    *,
    points: Points = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """``log J(l -> m)`` for every pair ``l <= m``: one forward pass and one backward pass from each ``m``.

    Returns:
        Dataset with ``log_apjn`` of shape ``(block, target_block)``, nan for ``l > m``; one probe for each target.

    Raises:
        ValueError: as ``measure``.
    """
    stream = residual_points(model, points)
    gradients = GradientNorms(len(stream))
    tensors: list[Tensor] = []

    def visit(index: int, tensor: Tensor) -> Tensor:
        tensors.append(tensor.detach().requires_grad_() if index == 0 else tensor)
        gradients.watch(index, tensors[-1])
        return tensors[-1].clone()  # the model may add to it in place, and it is an end of its own

    size = len(stream)
    values = np.full((size, size), np.nan)
    values[0, 0] = 0.0
    with placed(model, inputs, device, dtype) as ready, untouched(model):
        run_stream(model, ready, stream, visit)
        for target in range(1, size):
            probe = normal_probe(tensors[target], seed, target)
            norms = gradients.of(tensors[0], tensors[target], probe, retain=target + 1 < size, until=target)
            values[: target + 1, target] = np.log(norms)
    return _square_dataset(values, seed)


def measure_forward(
    model: nn.Module,
    inputs: Any,
    *,
    start: int = 0,
    points: Points = None,
    tangents: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """``log J(start -> m)`` for every later point ``m`` by forward-mode differentiation of random tangents.

    ``E_v |J v|^2 / |v|^2`` with ``v`` standard normal on every token of ``x^start`` equals the reverse-mode
    estimate in expectation (docs/theory, section 6).  Attention runs in its unfused form, which forward mode needs.

    Returns:
        Dataset with ``log_apjn`` of shape ``(target_block,)``, nan before ``start``.

    Raises:
        ValueError: ``start`` outside the stream, ``tangents`` below 1, or as ``measure``.
    """
    stream = residual_points(model, points)
    if not 0 <= start < len(stream):
        raise ValueError(f"start={start!r} must be a point of the stream, 0 to {len(stream) - 1}")
    if tangents < 1:
        raise ValueError(f"tangents={tangents!r} must be at least 1")
    squares = np.zeros((tangents, len(stream)))

    def visitor(number: int) -> Any:
        size = 1.0

        def visit(index: int, tensor: Tensor) -> Tensor | None:
            nonlocal size
            if index == start:
                tangent = normal_probe(tensor, seed, number)
                size = squared_norm(tangent)
                squares[number, index] = 1.0
                return forward_ad.make_dual(tensor.detach(), tangent)
            if index > start:
                squares[number, index] = squared_norm(forward_ad.unpack_dual(tensor).tangent) / size
            return None

        return visit

    with placed(model, inputs, device, dtype) as ready, untouched(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for number in range(tangents):
            with forward_ad.dual_level():
                run_stream(model, ready, stream, visitor(number))
    with np.errstate(divide="ignore"):
        values = np.log(squares.mean(axis=0))
    values[:start] = np.nan
    return _square_dataset(values[None], seed).isel(block=0, drop=True)


def _square_dataset(values: np.ndarray, seed: int) -> xr.Dataset:
    variable = (("block", "target_block"), values, {"long_name": "log J(l -> m)"})
    coordinates = {"block": np.arange(float(len(values))), "target_block": np.arange(float(values.shape[1]))}
    return xr.Dataset({"log_apjn": variable}, coordinates, {"source": "measurement", "schema": SCHEMA, "seed": seed})


def input_kernels(
    model: nn.Module, inputs: Any, *, points: Points = None, device: torch.device | str | None = None
) -> np.ndarray:
    """Kernels ``x_a . x_b / width`` at the first point of the stream, float64, shape ``(batch, tokens, tokens)``.

    Raises:
        ValueError: as ``residual_points`` and ``run_stream``.
    """
    first = residual_points(model, points)[:1]
    streams: list[Tensor] = []
    with placed(model, inputs, device, None) as ready, untouched(model), torch.no_grad():
        run_stream(model, ready, first, lambda index, tensor: streams.append(tensor))
    x = streams[0].double()
    return (x @ x.transpose(-1, -2) / x.shape[-1]).cpu().numpy()
