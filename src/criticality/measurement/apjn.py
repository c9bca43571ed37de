"""Averaged partial Jacobian norms of a real model, all layers from one backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from criticality.arguments import Seed, Size, check, checked
from criticality.errors import RAISED, ArgumentError, CriticalityError, model_failed, raised
from criticality.lazy import lazy_module
from criticality.measurement.points import Points
from criticality.measurement.profile import Profile, profile
from criticality.measurement.statistics import log_mean, standard_error
from criticality.probes import Probe, check_probe, probe_name
from criticality.randomness import forked, seed_everything
from criticality.schema import profile_dataset
from criticality.shapes import Float
from criticality.stream.untouched import placed, untouched

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")

Mode = Literal["evaluation", "training"]
"""In which a model is measured."""


@checked
def measure(
    model: nn.Module,
    inputs: Any,
    *,
    points: Points = None,
    chain: str | None = None,
    probes: Size = 1,
    probe: Probe = "normal",
    seed: Seed = 0,
    mode: Mode = "evaluation",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> xr.Dataset:
    """Measure ``log J(l -> L)`` of every point of the residual stream of one model.

    ``J(l -> L) = E_u |delta^l|^2 / |u|^2`` with ``delta^l = d(u . x^L) / dx^l`` and ``u`` standard normal on every
    token of ``x^L`` (Hutchinson's estimator of the trace in docs/theory, section 1): one forward pass, and for each
    probe one backward pass to activations, no weight gradients.  Nothing is kept of a gradient but its norm, so that
    memory is that of a forward pass with saved activations and one gradient of the size of the stream.

    Args:
        model: any module. Parameters' ``requires_grad``, modes, buffers, hooks and random states are as before when the call
            returns or raises; in between the parameters take no gradient, so that another thread that trains the model meets a
            ``RuntimeError`` of torch: measure between its steps.
        inputs: a tensor, a tuple of positional or a mapping of keyword arguments, already batched; a dataclass, or a list of
            tensors of one shape.
        points: by default the boundaries of blocks, as found in the data flow (``criticality.stream``); see ``Points``.
        chain: name of the residual stream, where the model has several; by default the one with most branchings.
        probes: independent ``u``; from two on, the standard error over probes is known.
        probe: what ``u`` is: ``normal``, ``pooled``, ``class``, ``loss`` or a kernel over tokens (``criticality.probes``); for
            others than ``normal``, ``log_apjn`` is ``log |delta^l|^2 / |delta^L|^2`` of such gradients.
        seed: of the probes, and in training mode of what the model draws, such as dropout.
        mode: of the model. In ``evaluation`` dropout does nothing, and batch norms use their running statistics, or, where they
            have seen no data, those of the batch; ``training`` is as in a step of a training.
        device, dtype: where to run; the model is moved there and back. Tested on CPU; written for any torch device.

    Returns:
        Dataset of ``criticality.schema``, ``(depth + 1,)``; attribute ``points`` has their names, ``mode`` is the model's,
        ``chain`` the stream's name and ``side_inputs`` what was held fixed along the depth, so that ``J`` is a partial derivative;
        ``resumed`` where the stream begins when no gradient passes from the inputs to the output (a backbone run without
        gradients, codes that are looked up).

    Raises:
        StreamNotFoundError: no residual stream, or not the points asked for.
        InputsError: nothing in the inputs that a gradient can be taken by.
        ModelFailedError: the model's own code raised; ``OutOfMemoryError`` where it was memory that it had not.
        NotFiniteError: a stream or gradient that is not finite, or a gradient that is 0.
        ValueError: ``probes`` below 1; as ``probe_kernel``.
    """
    measured = _profile(
        model, inputs, points, chain, probes=probes, probe=probe, seed=seed, device=device, dtype=dtype, mode=mode
    )
    mean, error = log_mean(measured.log_apjn)
    return _dataset([measured], mean, error, probes=probes, probe=probe_name(probe), seeds=1, seed=seed)


@checked
def measure_chains(model: nn.Module, inputs: Any, **settings: Any) -> dict[str, xr.Dataset]:
    """A profile of every residual stream of a model, by name: encoder and decoder, or the towers of a model of two inputs.

    Arguments and errors as for ``measure``.
    """
    first = measure(model, inputs, **settings)
    return {first.chain: first} | {
        name: measure(model, inputs, chain=name, **settings) for name in first.chains if name != first.chain
    }


@checked
def measure_ensemble(
    build: Callable[[int], nn.Module],
    inputs: Any,
    seeds: Iterable[int],
    *,
    points: Points = None,
    chain: str | None = None,
    probes: Size = 1,
    probe: Probe = "normal",
    mode: Mode = "evaluation",
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
    chosen = list(seeds)
    if not chosen:
        raise ArgumentError("seeds=[] must hold at least one seed")
    profiles = ensemble_profiles(
        build,
        inputs,
        chosen,
        points,
        probes,
        probe,
        chain=chain,
        device=device,
        dtype=dtype,
        mode=mode,
        progress=progress,
    )
    return ensemble_dataset(profiles, probes=probes, probe=probe_name(probe), seeds=len(chosen), seed=chosen[0])


@checked
def ensemble_profiles(
    build: Callable[[int], nn.Module],
    inputs: Any,
    seeds: Iterable[int],
    points: Points,
    probes: int,
    probe: Probe,
    *,
    chain: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    mode: Mode = "evaluation",
    progress: Callable[[int], None] | None = None,
    kernels: bool = False,
) -> list[Profile]:
    """Of each seed, as ``measure_ensemble``; with ``kernels`` those over tokens at the first point, too."""
    profiles: list[Profile] = []
    for seed in seeds:
        check(Seed, "seed", seed)
        with forked():
            seed_everything(seed)
            model = _built(build, seed)
        settings: dict[str, Any] = {"device": device, "dtype": dtype, "mode": mode, "kernels": kernels}
        profiles.append(_profile(model, inputs, points, chain, probes=probes, probe=probe, seed=seed, **settings))
        if progress is not None:
            progress(seed)
    return profiles


def _built(build: Callable[[int], nn.Module], seed: int) -> nn.Module:
    try:
        with torch.inference_mode(False):
            model = build(seed)
    except CriticalityError:
        raise
    except RAISED as error:
        said = f"build({seed}) must return a model, and its own code raised {raised(error)}"
        raise model_failed(said, error) from error
    check(nn.Module, f"build({seed})", model)
    return model


@checked
def ensemble_dataset(profiles: list[Profile], **attrs: Any) -> xr.Dataset:
    """``log E J`` over profiles with its standard error over them.

    Raises:
        CriticalityError: profiles of different numbers of points.
    """
    lengths = {len(one.points) for one in profiles}
    if len(lengths) > 1:
        raise ArgumentError(
            f"residual stream must have the same points for every seed, but has {sorted(lengths)} of them"
        )
    mean, error = log_mean(np.array([log_mean(one.log_apjn)[0] for one in profiles]))
    return _dataset(profiles, mean, error, **attrs)


def _dataset(profiles: list[Profile], log_apjn: np.ndarray, error: np.ndarray, **attrs: Any) -> xr.Dataset:
    first = profiles[0]
    moments: Float[np.ndarray, "seeds 3 points"] = np.array([one.moments for one in profiles])
    q, p, correlation = moments.mean(axis=0)
    q_error, _, correlation_error = standard_error(moments)
    source = attrs.pop("source", "measurement")
    about: dict[str, Any] = {
        "mode": "training" if first.training else "evaluation",
        "points": [point.name for point in first.points],
        "chain": first.chain,
        "chains": list(first.chains),
    }
    if first.batch_statistics and not first.training:
        about["mode"] = (
            f"evaluation, statistics of the batch in {first.batch_statistics} batch norms that have seen no data"
        )
    if first.side_inputs:
        about["side_inputs"] = list(first.side_inputs)
    if first.blocked:
        about["blocked"] = list(first.blocked)
        warnings.warn(
            f"values are added to the stream at {', '.join(map(repr, first.blocked))} through which no gradient passes"
            " (quantized or detached): log J leaves them out",
            stacklevel=4,
        )
    if first.resumed:
        about["resumed"] = list(first.resumed)
    return profile_dataset(
        block=[point.position for point in first.points],
        log_apjn=log_apjn,
        log_apjn_se=error,
        q=q,
        q_se=q_error,
        p=p,
        correlation=correlation,
        correlation_se=correlation_error,
        source=source,
        attrs={**attrs, **about},
    )


def _profile(
    model: nn.Module,
    inputs: Any,
    points: Points,
    chain: str | None,
    *,
    probes: int,
    probe: Probe,
    seed: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    mode: Mode,
    kernels: bool = False,
) -> Profile:
    check_probe(probe)
    training = mode == "training"
    with placed(model, inputs, device, dtype) as ready, untouched(model, training):
        if training:
            seed_everything(seed)
        return profile(model, ready, points, chain, probes, seed, probe=probe, kernels=kernels)
