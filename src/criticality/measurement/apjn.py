"""Averaged partial Jacobian norms of a real model, all layers from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from criticality.measurement.points import Points, ResidualPoint, residual_points
from criticality.measurement.statistics import log_mean, standard_error, stream_moments
from criticality.measurement.stream import placed, run_stream, untouched
from criticality.schema import profile_dataset


def measure(
    model: nn.Module,
    inputs: Any,
    *,
    points: Points = None,
    probes: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """Measure ``log J(l -> L)`` of every point of the residual stream of one model.

    ``J(l -> L) = E_u |delta^l|^2 / |u|^2`` with ``delta^l = d(u . x^L) / dx^l`` and ``u`` standard normal on every
    token of ``x^L`` (Hutchinson's estimator of the trace in docs/theory, section 1): one forward pass, and for each
    probe one backward pass to activations, no weight gradients.  Nothing is kept of a gradient but its norm, so that
    memory is that of a forward pass with saved activations and one gradient of the size of the stream.

    Args:
        model: any module; evaluated in eval mode. Parameters' ``requires_grad``, modes, hooks and random states are
            as before when the call returns or raises.
        inputs: a tensor, a tuple of positional or a dict of keyword arguments, already batched.
        points: see ``criticality.measurement.residual_points``.
        probes: independent ``u``; from two on, the standard error over probes is known.
        seed: of the probes.
        device, dtype: where to run; the model is moved there and back. Tested on CPU; written for any torch device.

    Returns:
        Dataset of ``criticality.schema``, ``(depth + 1,)``.

    Raises:
        ValueError: as ``residual_points`` and ``run_stream``; ``probes`` below 1; gradients that are not finite.
    """
    stream = residual_points(model, points)
    log_apjn, moments = _profile(model, inputs, stream, probes, seed, device, dtype)
    mean, error = log_mean(log_apjn)
    return _dataset(mean, error, moments[None], probes=probes, seeds=1, seed=seed)


def measure_ensemble(
    build: Callable[[int], nn.Module],
    inputs: Any,
    seeds: Iterable[int],
    *,
    points: Points = None,
    probes: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Average over weights: ``log E J`` with its standard error over seeds (delta method).

    ``build(seed)`` makes each model; it is called with the random states of that seed and they are put back after.
    ``progress(seed)`` is called when a seed is done.  Other arguments as for ``measure``.

    Raises:
        ValueError: no seeds, or as ``measure``.
    """
    profiles, moments, chosen = [], [], list(seeds)
    if not chosen:
        raise ValueError("seeds=[] must hold at least one seed")
    for seed in chosen:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(seed)
        log_apjn, moment = _profile(model, inputs, residual_points(model, points), probes, seed, device, dtype)
        profiles.append(log_mean(log_apjn)[0])
        moments.append(moment)
        if progress is not None:
            progress(seed)
    mean, error = log_mean(np.array(profiles))
    return _dataset(mean, error, np.array(moments), probes=probes, seeds=len(chosen), seed=chosen[0])


def _dataset(
    log_apjn: np.ndarray, error: np.ndarray, moments: Float[np.ndarray, "seeds 3 points"], **attrs: int
) -> xr.Dataset:
    q, p, correlation = moments.mean(axis=0)
    q_error, _, correlation_error = standard_error(moments)
    return profile_dataset(
        block=range(len(log_apjn)),
        log_apjn=log_apjn,
        log_apjn_se=error,
        q=q,
        q_se=q_error,
        p=p,
        correlation=correlation,
        correlation_se=correlation_error,
        source="measurement",
        attrs=attrs,
    )


def _profile(
    model: nn.Module,
    inputs: Any,
    points: list[ResidualPoint],
    probes: int,
    seed: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> tuple[np.ndarray, np.ndarray]:
    """``log J`` of shape ``(probes, points)`` and ``(q, p, correlation)`` of shape ``(3, points)``."""
    if probes < 1:
        raise ValueError(f"probes={probes!r} must be at least 1")
    moments = np.empty((3, len(points)))
    gradients = GradientNorms(len(points))
    ends: list[Tensor] = []

    def visit(index: int, tensor: Tensor) -> Tensor | None:
        moments[:, index] = stream_moments(tensor)
        if index == 0:
            leaf = tensor.detach().requires_grad_()
            gradients.watch(index, leaf)
            ends.append(leaf)
            return leaf.clone()  # the model may add to it in place
        gradients.watch(index, tensor)
        if index == len(points) - 1:
            ends.append(tensor)
        return None

    with placed(model, inputs, device, dtype) as ready, untouched(model):
        run_stream(model, ready, points, visit)
        start, end = ends
        rows = [
            gradients.of(start, end, normal_probe(end, seed, number), retain=number + 1 < probes)
            for number in range(probes)
        ]
    return np.log(np.array(rows)), moments


def normal_probe(last: Tensor, seed: int, number: int) -> Tensor:
    """Standard normal, the same on every device."""
    generator = torch.Generator().manual_seed((1_000_003 * seed + number) % 2**63)
    return torch.randn(last.shape, generator=generator, dtype=torch.float32).to(last)


class GradientNorms:
    """Squared norms of the gradients at the points of a stream, noted as a backward pass goes by.

    A point is watched as the forward pass reaches it: a hook that is set then gets the gradient of the value that the
    tensor has then, whatever the model adds to it in place afterwards.
    """

    def __init__(self, points: int):
        self._squares = [0.0] * points

    def watch(self, index: int, tensor: Tensor) -> None:
        def note(gradient: Tensor) -> None:
            self._squares[index] = squared_norm(gradient)

        tensor.register_hook(note)

    def of(
        self, start: Tensor, end: Tensor, probe: Tensor, retain: bool = False, until: int | None = None
    ) -> list[float]:
        """``|d(probe . end) / d x|^2 / |probe|^2`` of the points up to number ``until``, ``end``'s own; the last is 1.

        Raises:
            ValueError: a gradient that is 0 or not finite.
        """
        torch.autograd.grad(end, start, probe, retain_graph=retain)
        size = squared_norm(probe)
        norms = [square / size for square in self._squares[: None if until is None else until + 1]]
        bad = [i for i, value in enumerate(norms) if not (np.isfinite(value) and value > 0)]
        if bad:
            raise ValueError(
                f"gradient at point {bad[-1]} must be finite and not 0 in {probe.dtype}, got a squared norm of"
                f" {norms[bad[-1]]}; try dtype=torch.float64"
            )
        return norms


def squared_norm(tensor: Tensor) -> float:
    """Squared norm with the sum in float64."""
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) ** 2
