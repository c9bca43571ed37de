"""Predict the profile of any model by running it without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from criticality.errors import InputsError
from criticality.measurement import Points, Profile, ensemble_dataset, profile
from criticality.stream import trace
from criticality.stream.untouched import untouched
from criticality.stream.weights import branch_weights
from criticality.weightless.building import build_without_weights
from criticality.weightless.entries import AT_LEAST
from criticality.weightless.initializing import Initializer, initialize
from criticality.weightless.laws import measured_law, require_known_laws
from criticality.weightless.sampling import WeightsIntegratedOut
from criticality.weightless.weight import RandomWeight

Factory = Callable[[], nn.Module]
"""Makes a model; its large weights are never allocated."""


def predict_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    seeds: int | Iterable[int] = 4,
    *,
    points: Points = None,
    chain: str | None = None,
    probes: int = 1,
    init: str | Initializer = "own",
    at_least: int = AT_LEAST,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """``log J(l -> L)`` of any model at initialization, averaged over its random weights without holding any.

    The model itself is run on the input given, each product with a large random weight being drawn from its distribution given
    what goes in (``WeightsIntegratedOut``); one backward pass gives the profile, as in a measurement (docs/theory, section 11).

    Args:
        model: a function that builds it, of which the initialization is watched and no large weight is allocated; or a model
            that is there, whose large weights then stand for the laws of their entries.
        inputs: as for ``measure``, or a function of the model that makes them.
        seeds: how many, or which; the standard error is over them. Small parameters are drawn anew for each where
            ``model`` is a function.
        points, chain: as for ``measure``.
        probes: backward passes for each seed.
        init: ``own``, ``fan-in`` (of the weights of all branches) or a function ``(name, weight, fan_in)``, for a model that a
            function builds.
        at_least: entries that make a weight large.
        progress: called with each seed when it is done.

    Returns:
        Dataset of ``criticality.schema``, source ``theory``, attribute ``way`` ``sampled``.

    Raises:
        UnknownLawError: an initialization that could not be followed.
        InputsError: no seeds, or ``init`` for a model that is built.
        ValueError: as ``measure``.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise InputsError(f"seeds={seeds!r} must be at least one seed")
    profiles = []
    for seed in chosen:
        profiles.append(_profile(model, inputs, seed, points, chain, probes, init, at_least))
        if progress is not None:
            progress(seed)
    about = {"source": "theory", "way": "sampled", "probes": probes, "seeds": len(chosen), "seed": chosen[0]}
    return ensemble_dataset(profiles, **about)


def _profile(
    model: nn.Module | Factory,
    inputs: Any,
    seed: int,
    points: Points,
    chain: str | None,
    probes: int,
    init: str | Initializer,
    at_least: int,
) -> Profile:
    if isinstance(model, nn.Module):
        if init != "own":
            raise InputsError(f"init={init!r} must be 'own' for a model that is built already: initialize it before")
        built = model
        laws = {p: measured_law(p) for p in large_weights(model, at_least)}
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            built = build_without_weights(model, at_least=at_least, seed=seed)
        require_known_laws(built)
        laws = {}
    ready = inputs(built) if callable(inputs) and not isinstance(inputs, (Tensor, nn.Module)) else inputs
    if init not in ("own", "timm"):
        _initialize(built, init, ready, seed)
    with untouched(built):
        return profile(built, ready, points, chain, probes, seed, lambda: WeightsIntegratedOut(laws, seed=seed))


def _initialize(model: nn.Module, init: str | Initializer, inputs: Any, seed: int) -> None:
    """Give the weights of all branches another law; what they sum over is read from the data flow."""
    with untouched(model):
        found = trace(model, inputs, under=WeightsIntegratedOut(seed=seed))
    axes: dict[str, Any] = {}
    for chain in found.chains:
        axes |= branch_weights(model, found, chain)
    initialize(model, init, axes=axes, seed=seed)


def large_weights(model: nn.Module, at_least: int = AT_LEAST) -> list[Tensor]:
    """Random weights of a model that hold numbers: floating parameters of many entries that are not all alike."""
    return [
        parameter
        for parameter in model.parameters()
        if parameter.is_floating_point()
        and parameter.numel() >= at_least
        and not isinstance(parameter, RandomWeight)
        and bool((parameter.detach() != parameter.detach().flatten()[0]).any())
    ]
