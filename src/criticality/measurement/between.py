"""Partial Jacobian norms between any two points of the stream, in reverse and in forward mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from criticality.arguments import Seed, Size, checked
from criticality.errors import NotFiniteError
from criticality.measurement.axes import stream_axes
from criticality.measurement.points import Points, points_asked_for, resolved
from criticality.measurement.profile import gradient_norms, normal_probe, squared_norm
from criticality.schema import SCHEMA
from criticality.stream import Call, trace
from criticality.stream.find import watch
from criticality.stream.untouched import placed, untouched


@checked
def measure_between(
    model: nn.Module,
    inputs: Any,
    *,
    points: Points = None,
    seed: Seed = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """``log J(l -> m)`` for every pair ``l <= m``: one forward pass and one backward pass from each ``m``.

    Returns:
        Dataset with ``log_apjn`` of shape ``(block, target_block)``, nan for ``l > m``; one probe for each target.

    Raises:
        ValueError: as ``measure``.
    """
    with placed(model, inputs, device, dtype) as ready, untouched(model):
        found = trace(model, ready, required=resolved(model, points)[1])
        asked, _ = points_asked_for(model, found, points)
        nodes = [found.node(point) for point in asked]
        size = len(asked)
        values = np.full((size, size), np.nan)
        values[0, 0] = 0.0
        for target in range(1, size):
            norms = gradient_norms(found, nodes[: target + 1], asked[: target + 1], seed, target, target + 1 < size)
            values[: target + 1, target] = np.log(norms)
    return _square_dataset(values, [point.position for point in asked], seed)


@checked
def measure_forward(
    model: nn.Module,
    inputs: Any,
    *,
    start: int = 0,
    points: Points = None,
    tangents: Size = 1,
    seed: Seed = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """``log J(start -> m)`` for every later point ``m`` by differentiating along random tangents.

    ``E_v |J v|^2 / |v|^2`` with ``v`` standard normal on every token of ``x^start`` equals the reverse-mode
    estimate in expectation (docs/theory, section 6).  Attention runs in its unfused form, which forward mode needs.

    Returns:
        Dataset with ``log_apjn`` of shape ``(target_block,)``, nan before ``start``.

    Raises:
        ValueError: ``start`` outside the stream, ``tangents`` below 1, or as ``measure``.
    """
    with placed(model, inputs, device, dtype) as ready, untouched(model), sdpa_kernel(SDPBackend.MATH):
        with forward_ad.dual_level():  # as below: code may take other ways in forward mode
            found = trace(model, ready, required=resolved(model, points)[1])
            asked, _ = points_asked_for(model, found, points)
        positions = [point.position for point in asked]
        if not 0 <= start < len(asked):
            raise ValueError(f"start={start!r} must be a point of the stream, 0 to {len(asked) - 1}")
        numbers = [_number(found.layout.call(point.node)) for point in asked]
        del found  # and its graph
        squares = np.zeros((tangents, len(asked)))
        for number in range(tangents):
            with forward_ad.dual_level():
                squares[number] = _tangent_norms(model, ready, numbers, start, seed, number)
    with np.errstate(divide="ignore"):
        values = np.log(squares.mean(axis=0))
    values[:start] = np.nan
    return _square_dataset(values[None], positions, seed).isel(block=0, drop=True)


def _number(call: Call | None) -> int:
    return -1 if call is None else call.number


def _tangent_norms(model: nn.Module, inputs: Any, numbers: list[int], start: int, seed: int, number: int) -> np.ndarray:
    squares = np.zeros(len(numbers))
    size = 1.0

    def note(call: Call, tensor: Tensor) -> Tensor | None:
        nonlocal size
        if call.number not in numbers:
            return None
        index = numbers.index(call.number)
        if index == start:
            tangent = normal_probe(tensor.shape, seed, number, tensor)
            size = squared_norm(tangent)
            squares[index] = 1.0
            return forward_ad.make_dual(tensor.detach().requires_grad_(), tangent)
        if index > start:
            tangent = forward_ad.unpack_dual(tensor).tangent
            if tangent is None:
                raise NotFiniteError(f"tangent at point {index} must not be 0, and nothing of it arrives there")
            squares[index] = squared_norm(tangent) / size
        return None

    watch(model, inputs, note)
    return squares


def _square_dataset(values: np.ndarray, positions: list[float], seed: int) -> xr.Dataset:
    variable = (("block", "target_block"), values, {"long_name": "log J(l -> m)"})
    coordinates = {"block": positions[: len(values)], "target_block": positions}
    return xr.Dataset({"log_apjn": variable}, coordinates, {"source": "measurement", "schema": SCHEMA, "seed": seed})


@checked
def input_kernels(
    model: nn.Module, inputs: Any, *, points: Points = None, device: torch.device | str | None = None
) -> np.ndarray:
    """Kernels ``x_a . x_b / width`` at the first point of the stream, float64, shape ``(batch, tokens, tokens)``.

    Raises:
        ValueError: as ``measure``.
    """
    with placed(model, inputs, device, None) as ready, untouched(model):
        found = trace(model, ready, required=resolved(model, points)[1])
        asked, chain = points_asked_for(model, found, points)
        first = _number(found.layout.call(asked[0].node))
        axes = stream_axes(model, ready, found, chain, asked, None)
        streams: list[Tensor] = []

        def note(call: Call, tensor: Tensor) -> None:
            if call.number == first:
                streams.append(tensor.detach().clone())

        watch(model, ready, note)
    x = streams[0].double()
    if axes is not None:
        x = x.movedim((axes.batch, axes.channels), (0, -1))
    x = x[:, None] if x.ndim == 2 else x.flatten(1, -2)
    return (x @ x.transpose(-1, -2) / x.shape[-1]).cpu().numpy()
