"""Predict the profile of any model by running it without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from criticality.arguments import Count, Size, checked
from criticality.lazy import lazy_module
from criticality.measurement import Points, Profile, ensemble_dataset, profile
from criticality.probes import Probe, check_probe, probe_name
from criticality.stream.untouched import untouched
from criticality.weightless.entries import AT_LEAST
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory, prepared, seeds_of

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")


@checked
def predict_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    seeds: Size | Iterable[int] = 4,
    *,
    points: Points = None,
    chain: str | None = None,
    probes: Size = 1,
    probe: Probe = "normal",
    init: str | Initializer = "own",
    at_least: Count = AT_LEAST,
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
        probe: where they start, as for ``measure``.
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
    chosen = seeds_of(seeds)
    check_probe(probe)
    profiles: list[Profile] = []
    for seed in chosen:
        ready = prepared(model, inputs, seed, init=init, at_least=at_least)
        with untouched(ready.model):
            profiles.append(profile(ready.model, ready.inputs, points, chain, probes, seed, ready.under, probe))
        if progress is not None:
            progress(seed)
    about = {
        "source": "theory",
        "way": "sampled",
        "probes": probes,
        "probe": probe_name(probe),
        "seeds": len(chosen),
        "seed": chosen[0],
    }
    return ensemble_dataset(profiles, **about)
