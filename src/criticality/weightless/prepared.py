"""A model ready to be run without its weights: built by the laws of its initialization, or there and read by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from criticality.errors import InputsError
from criticality.randomness import forked, seed_everything
from criticality.stream.sharded import at_rest, gathered
from criticality.weightless.building import build_without_weights
from criticality.weightless.entries import AT_LEAST
from criticality.weightless.initializing import Initializer, initialize_branches
from criticality.weightless.law import Law
from criticality.weightless.laws import measured_law, require_known_laws
from criticality.weightless.sampling import WeightsIntegratedOut
from criticality.weightless.weight import RandomWeight

Factory = Callable[[], nn.Module]
"""Makes a model; its large weights are never allocated."""


@dataclass(frozen=True)
class Prepared:
    """One model for one seed.

    Attributes:
        model: itself.
        inputs: a batch.
        laws: of weights that hold numbers; empty where the model has none.
        seed: of what is random in it.
    """

    model: nn.Module
    inputs: Any
    laws: dict[Tensor, Law]
    seed: int

    def under(self) -> WeightsIntegratedOut:
        """The mode that it is run in, a new one for each pass; its numbers are the same for the same seed."""
        return WeightsIntegratedOut(self.laws, seed=self.seed, model=self.model)


def prepared(
    model: nn.Module | Factory, inputs: Any, seed: int, *, init: str | Initializer = "own", at_least: int = AT_LEAST
) -> Prepared:
    """Build a model without its weights, or read the laws of one that is there.

    Args:
        model: a function that builds it, or itself.
        inputs: as for ``measure``, or a function of the model that makes them.
        seed: of the small parameters, and of the runs.
        init: as for ``predict_sampled``.
        at_least: entries that make a weight large.

    Raises:
        UnknownLawError: an initialization that could not be followed.
        InputsError: ``init`` for a model that is built.
        ValueError: as ``trace``, where ``init`` is another than the model's own.
    """
    if isinstance(model, nn.Module):
        if init != "own":
            raise InputsError(f"init={init!r} must be 'own' for a model that is built already: initialize it before")
        built = model
        laws = {p: measured_law(p) for p in large_weights(model, at_least)}
    else:
        with forked():
            seed_everything(seed)
            built = build_without_weights(model, at_least=at_least, seed=seed)
        require_known_laws(built)
        laws = {}
    ready = inputs(built) if callable(inputs) and not isinstance(inputs, (Tensor, nn.Module)) else inputs
    if init != "own":
        initialize_branches(built, init, ready, lambda: WeightsIntegratedOut(seed=seed, model=built), seed)
    return Prepared(built, ready, laws, seed)


def seeds_of(seeds: int | Iterable[int]) -> list[int]:
    """The seeds themselves, given those or how many.

    Raises:
        InputsError: none.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise InputsError(f"seeds={seeds!r} must be at least one seed")
    return chosen


def large_weights(model: nn.Module, at_least: int = AT_LEAST) -> list[Tensor]:
    """Random weights of a model that hold numbers: floating parameters of many entries that are not all alike.

    Those that a weight is computed from, beside buffers that were made for their numbers, are what they are.
    """
    computed_from = {id(parameter) for parameter in sources_of_weights(model)}
    at_rest(model)
    return [
        parameter
        for parameter in model.parameters()
        if parameter.is_floating_point()
        and parameter.numel() >= at_least
        and not isinstance(parameter, RandomWeight)
        and id(parameter) not in computed_from
        and _varies(gathered(parameter.detach()))
    ]


def _varies(numbers: Tensor) -> bool:
    return bool((numbers != numbers.flatten()[0]).any())


def sources_of_weights(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that hold numbers and that torch computes a weight from: by parametrizations and the older norms of weights."""
    found: list[nn.Parameter] = []
    for module in model.modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            found += module.parametrizations.parameters()
        hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, (SpectralNorm, WeightNorm))]
        found += module.parameters(recurse=False) if hooks else ()
    return [parameter for parameter in found if not isinstance(parameter, RandomWeight)]
