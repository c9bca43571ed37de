"""Predict a model by name: by the exact theory where it describes the network, else by running it without its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from criticality.arguments import Size, checked
from criticality.errors import ArgumentError, UndescribedError
from criticality.lazy import lazy_module
from criticality.measurement import output_kernels
from criticality.measurement.statistics import log_mean
from criticality.models import ModelSpec
from criticality.probes import Probe, check_probe, probe_name
from criticality.schema import profile_dataset
from criticality.theory import Network, TokenKernel
from criticality.theory.propagation import propagated
from criticality.weightless import predict_sampled
from criticality.weightless.prepared import Factory, prepared

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")

__all__ = [
    "WAYS",
    "exact_profile",
    "predict",
    "predict_description",
]

_RUNS = 4
"""Of the exact way, for its error."""

_APART = 1_000_003
"""Between their seeds."""

Way = Literal["auto", "exact", "sampled"]

WAYS: tuple[Way, ...] = ("auto", "exact", "sampled")


@checked
def predict_description(
    description: ModelSpec,
    *,
    way: str = "auto",
    seeds: int = 4,
    samples: int = 16,
    seed: int = 0,
    probe: Probe = "normal",
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """``log J(l -> L)`` of a model by name.

    Args:
        description: as ``model_spec`` makes it.
        way: ``exact`` (mean-field theory of the network, infinite width, no noise), ``sampled`` (the model itself is run with
            its weights integrated out), or ``auto``: exact where the network is described.
        seeds: of ``sampled``.
        samples: score matrices per attention layer of ``exact`` (``exact_profile``).
        seed: the first, and of the inputs.
        probe: where the backward pass starts (``criticality.probes``). Of ``loss``, the exact theory starts from the kernel that
            the model's head sends back when it is run without weights, averaged over ``seeds``.
        progress: called with each seed of ``sampled``.

    Returns:
        Dataset of ``criticality.schema`` with the attribute ``way``.

    Raises:
        UndescribedError: ``exact`` for a network that is not described.
        ValueError: another ``way``; as ``predict_sampled``.
    """
    check_probe(probe)
    if way != "sampled":
        try:
            network, inputs = description.read(seed)
            start = _sent_back(description, seeds, seed) if isinstance(probe, str) and probe == "loss" else probe
            found = exact_profile(network, inputs, samples=samples, seed=seed, probe=start)
            return found.assign_attrs(way="exact", probe=probe_name(probe))
        except UndescribedError:
            if way == "exact":
                raise
    return predict_sampled(
        description.create,
        description.inputs(seed),
        range(seed, seed + seeds),
        points=description.points,
        init=description.init,
        probe=probe,
        progress=progress,
    )


def exact_profile(
    network: Network, inputs: Sequence[TokenKernel], *, samples: int, seed: int, probe: Probe = "normal"
) -> xr.Dataset:
    """``propagate`` with the error that the sampled scores of attention leave: the mean of four runs, which share the samples.

    Returns:
        As ``propagate``, with ``log_apjn_se``, over the runs; without where nothing is sampled.
    """
    each = max(2, 2 * round(samples / (2 * _RUNS)))
    seeds = [seed + number * _APART for number in range(_RUNS)]
    found = propagated(network, inputs, seeds[:2], samples=each, probe=probe)
    if np.array_equal(found[0]["log_apjn"], found[1]["log_apjn"]):
        return found[0].dataset()
    found += propagated(network, inputs, seeds[2:], samples=each, probe=probe)
    log_apjn, error = log_mean(np.array([one["log_apjn"] for one in found]))
    means = {name: np.mean([one[name] for one in found], axis=0) for name in ("q", "p", "correlation")}
    attrs = {**found[0].attrs, "samples": _RUNS * each}
    return profile_dataset(found[0]["block"].tolist(), log_apjn, attrs.pop("source"), attrs, log_apjn_se=error, **means)


def _sent_back(description: ModelSpec, seeds: int, seed: int) -> np.ndarray:
    """Kernels of the gradient of a loss at the end of the stream, ``(inputs, tokens, tokens)``, mean over weights and labels."""
    inputs, kernels = description.inputs(seed), []
    for number in range(seed, seed + seeds):
        ready = prepared(description.create, inputs, number, init=description.init)
        found = output_kernels(ready.model, ready.inputs, points=description.points, seed=number, under=ready.under)
        kernels.append(found)
    return np.asarray(np.mean(kernels, axis=0))


@checked
def predict(model: str | nn.Module | Factory, inputs: Any = None, seeds: Size = 4, **settings: Any) -> xr.Dataset:
    """``log J(l -> L)`` of any model at initialization.

    Args:
        model: a function that builds it (no large weight is allocated), a model that is there (its weights stand for their
            laws), or a name as ``criticality predict`` takes it.
        inputs: as for ``measure``; of a model by name left out.
        seeds: of the sampled way.
        settings: of ``predict_sampled`` or, for a name, of ``predict_description``.

    Raises:
        ValueError: no inputs for a model that is not given by name; as those functions.
    """
    if isinstance(model, str):
        from criticality.models import model_spec

        return predict_description(model_spec(model), seeds=seeds, **settings)
    if inputs is None:
        raise ArgumentError("inputs=None must be a batch for a model that is not given by name")
    return predict_sampled(model, inputs, seeds, **settings)
