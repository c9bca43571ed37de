"""Predict a model by name: by the exact theory where it describes the network, else by running it without its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import xarray as xr
from torch import nn

from criticality.arguments import checked
from criticality.errors import UndescribedError
from criticality.models import ModelDescription
from criticality.theory import propagate
from criticality.weightless import predict_sampled
from criticality.weightless.prepared import Factory

Way = Literal["auto", "exact", "sampled"]

WAYS: tuple[Way, ...] = ("auto", "exact", "sampled")


@checked
def predict_description(
    description: ModelDescription,
    *,
    way: str = "auto",
    seeds: int = 4,
    samples: int = 16,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """``log J(l -> L)`` of a model by name.

    Args:
        description: as ``describe_model`` makes it.
        way: ``exact`` (mean-field theory of the network, infinite width, no noise), ``sampled`` (the model itself is run with
            its weights integrated out), or ``auto``: exact where the network is described.
        seeds: of ``sampled``.
        samples: score matrices per attention layer of ``exact``.
        seed: the first, and of the inputs.
        progress: called with each seed of ``sampled``.

    Returns:
        Dataset of ``criticality.schema`` with the attribute ``way``.

    Raises:
        UndescribedError: ``exact`` for a network that is not described.
        ValueError: another ``way``; as ``predict_sampled``.
    """
    if way != "sampled":
        try:
            network, inputs = description.describe(seed)
        except UndescribedError:
            if way == "exact":
                raise
        else:
            return propagate(network, inputs, samples=samples, seed=seed).assign_attrs(way="exact")
    return predict_sampled(
        description.create,
        description.inputs(seed),
        range(seed, seed + seeds),
        points=description.points,
        init=description.init,
        progress=progress,
    )


@checked
def predict(model: str | nn.Module | Factory, inputs: Any = None, seeds: int = 4, **settings: Any) -> xr.Dataset:
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
        from criticality.models import describe_model

        return predict_description(describe_model(model), seeds=seeds, **settings)
    if inputs is None:
        raise ValueError("inputs=None must be a batch for a model that is not given by name")
    return predict_sampled(model, inputs, seeds, **settings)
