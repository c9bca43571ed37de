"""Partial Jacobian norms between any two points of the stream, in reverse and in forward mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from criticality.arguments import Seed, Size, check, checked
from criticality.errors import ArgumentError, NotFiniteError
from criticality.lazy import lazy_module
from criticality.measurement.points import Points, points_asked_for, resolved
from criticality.measurement.profile import gradient_norms, squared_norm
from criticality.measurement.starts import normal_probe
from criticality.measurement.statistics import log_mean
from criticality.randomness import forked, seed_everything
from criticality.schema import SCHEMA
from criticality.stream import Call, trace
from criticality.stream.find import watch
from criticality.stream.untouched import placed, untouched

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")


@checked
def measure_between(
    model: nn.Module,
    inputs: Any,
    *,
    points: Points = None,
    probes: Size = 1,
    seed: Seed = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """``log J(l -> m)`` for every pair ``l <= m``: one forward pass, and from each ``m`` one backward pass for each probe.

    Returns:
        Dataset with ``log_apjn`` of shape ``(block, target_block)``, nan for ``l > m``, the logarithm of the mean over probes.

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
            reached = nodes[: target + 1], asked[: target + 1]
            norms = [
                gradient_norms(found, *reached, seed, target + size * probe, (target, probe) != (size - 1, probes - 1))
                for probe in range(probes)
            ]
            values[: target + 1, target] = np.log(np.mean(norms, axis=0))
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
    with (
        placed(model, inputs, device, dtype) as ready,
        untouched(model),
        sdpa_kernel(SDPBackend.MATH),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings(
            "ignore", category=FutureWarning, module=r"torch\.jit"
        )  # torch's own rules for tangents
        with forward_ad.dual_level():  # as below: code may take other ways in forward mode
            found = trace(model, ready, required=resolved(model, points)[1])
            asked, _ = points_asked_for(model, found, points)
        positions = [point.position for point in asked]
        if not 0 <= start < len(asked):
            raise ArgumentError(f"start={start!r} must be a point of the stream, 0 to {len(asked) - 1}")
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


@checked
def measure_forward_ensemble(
    build: Callable[[int], nn.Module],
    inputs: Any,
    seeds: Iterable[int],
    *,
    start: int = 0,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> xr.Dataset:
    """``log E J(start -> m)`` over weights, with its standard error over seeds (delta method).

    Args:
        build, seeds, progress: as for ``measure_ensemble``.
        start, settings: as for ``measure_forward``.

    Returns:
        Dataset with ``log_apjn`` and ``log_apjn_se`` of shape ``(target_block,)``.

    Raises:
        ValueError: no seeds, or as ``measure_forward``.
    """
    runs: list[xr.Dataset] = []
    for seed in seeds:
        check(Seed, "seed", seed)
        with forked():
            seed_everything(seed)
            model = build(seed)
        runs.append(measure_forward(model, inputs, start=start, seed=seed, **settings))
        if progress is not None:
            progress(seed)
    if not runs:
        raise ArgumentError("seeds=[] must hold at least one seed")
    mean, error = log_mean(np.array([run.log_apjn.values for run in runs]))
    found = runs[0].assign(log_apjn=("target_block", mean, runs[0].log_apjn.attrs))
    long_name = "standard error of log J(l -> m)"
    return found.assign(log_apjn_se=("target_block", error, {"long_name": long_name})).assign_attrs(seeds=len(runs))


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
