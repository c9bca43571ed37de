"""One case of a comparison: a model built, measured and predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from criticality.errors import CriticalityError, TokensNotEquivalentError, UndescribedError
from criticality.measurement import Profile, ensemble_dataset, ensemble_profiles, output_kernels
from criticality.models import ModelSpec
from criticality.probes import Probe
from criticality.schema import SCHEMA
from criticality.studies.agreement import tolerance_of
from criticality.studies.comparison import OWN_NORM, Comparison, case_label
from criticality.studies.predict import predict_description
from criticality.theory import Network, SymmetricKernel, TokenKernel, propagate
from criticality.theory.network import mean_network
from criticality.threads import one_thread

_APART = 100_003
"""Between the seeds of a measurement and those of a sampled prediction, which must not be the same."""


@dataclass
class _Seen:
    """What is read off the models of the seeds while they are measured."""

    networks: list[Network] = field(default_factory=list)
    sent_back: list[np.ndarray] = field(default_factory=list)
    """Kernels of what the loss sends back, where the backward pass starts there."""
    described: bool = True
    """Whether the exact theory describes all of them."""


def run_case(comparison: Comparison, case: ModelSpec, progress: Callable[[str, int], None] | None = None) -> xr.Dataset:
    """Build, measure and predict one case (see ``compare``)."""

    def step(*_: object) -> None:
        if progress is not None:
            progress(case_label(case), 1)

    seen = _Seen()
    profiles = _profiles(comparison, case, seen, step)
    measured = ensemble_dataset(
        profiles, probes=comparison.probes, probe=comparison.probe, seeds=comparison.seeds, seed=comparison.seed
    )
    network = mean_network(seen.networks) if seen.described else None
    if network is None:
        predictions = _sampled(comparison, case)
    else:
        predictions = _exact(comparison, network, seen.sent_back, profiles)
    step()
    tolerance = tolerance_of(network, profiles[0].width, measured.sizes["block"] - 1)
    return _case_dataset(case, measured, predictions, tolerance)


def _profiles(comparison: Comparison, case: ModelSpec, seen: _Seen, step: Callable[[int], None]) -> list[Profile]:
    """Those of the seeds; what else is read off their models goes into ``seen``."""
    with _norms_changed(case):
        batch = case.inputs(comparison.seed)

    def build(seed: int) -> torch.nn.Module:
        with _norms_changed(case):
            model = case.build()
        try:
            if seen.described:
                seen.networks.append(case.network(model))
                if comparison.probe == "loss":
                    seen.sent_back.append(output_kernels(model, batch, points=case.points, seed=seed))
        except UndescribedError:
            seen.described = False
        return model

    seeds = range(comparison.seed, comparison.seed + comparison.seeds)
    return ensemble_profiles(
        build,
        batch,
        seeds,
        case.points,
        comparison.probes,
        comparison.probe,
        device=comparison.device,
        progress=step,
        kernels=True,
    )


@dataclass(frozen=True)
class _Predictions:
    """Of one case: ``again`` is a second, independent run of the exact theory, whose attention is sampled; ``symmetric`` is the
    theory of equivalent tokens, where there is one."""

    predicted: xr.Dataset
    again: xr.Dataset | None = None
    symmetric: xr.Dataset | None = None


def _sampled(comparison: Comparison, case: ModelSpec) -> _Predictions:
    seed = comparison.seed + _APART
    return _Predictions(
        predict_description(case, way="sampled", seeds=comparison.seeds, seed=seed, probe=comparison.probe)
    )


def _exact(
    comparison: Comparison, network: Network, sent_back: Sequence[np.ndarray], profiles: Sequence[Profile]
) -> _Predictions:
    starts = np.mean([one.start for one in profiles if one.start is not None], axis=0)
    inputs = [TokenKernel.of(kernel) for kernel in starts]
    probe: Probe = np.mean(sent_back, axis=0) if sent_back else comparison.probe
    mean_probe: Probe = np.mean(sent_back, axis=(0, 1)) if sent_back else comparison.probe
    seeds_of_scores = (comparison.seed, comparison.seed + 1_000_003)
    with one_thread(), ThreadPoolExecutor(2) as pool:
        predicted, again = pool.map(
            lambda seed: propagate(network, inputs, samples=comparison.samples, seed=seed, probe=probe), seeds_of_scores
        )
    return _Predictions(predicted, again, _equivalent_tokens(network, inputs, mean_probe))


@contextmanager
def _norms_changed(case: ModelSpec) -> Iterator[None]:
    """A refusal of what is asked of a model's norms says how it is compared as it is."""
    try:
        yield
    except CriticalityError as error:
        if case.norm is None or "norm" not in str(error).lower():
            raise
        raise type(error)(f"{error}; norms=['own'] (--norm own) compares the model as it is") from error


def _equivalent_tokens(network: Network, inputs: Sequence[TokenKernel], probe: Probe) -> xr.Dataset | None:
    """The theory of equivalent tokens, ``None`` where the network tells tokens apart."""
    try:
        return propagate(network, SymmetricKernel.mean_of(inputs), probe=probe)
    except TokensNotEquivalentError:
        return None


def _case_dataset(
    case: ModelSpec,
    measured: xr.Dataset,
    predictions: _Predictions,
    tolerance: float,
) -> xr.Dataset:
    """One case, theory beside measurement."""
    again, symmetric, blocks = predictions.again, predictions.symmetric, measured.block
    at_blocks = predictions.predicted.sel(block=blocks)
    log_apjn, error = at_blocks.log_apjn, at_blocks.get("log_apjn_se")
    if again is not None:  # half the distance of two runs is the error of their mean
        other = again.sel(block=blocks).log_apjn
        log_apjn, error = (log_apjn + other) / 2, abs(log_apjn - other) / 2
    data = {
        "log_apjn_predicted": log_apjn,
        "log_apjn_predicted_se": error,
        "log_apjn_symmetric": (
            measured.log_apjn * np.nan if symmetric is None else symmetric.sel(block=blocks).log_apjn
        ),
        "log_apjn_measured": measured.log_apjn,
        "log_apjn_se": measured.log_apjn_se,
        "q_predicted": at_blocks.q,
        "q_measured": measured.q,
        "q_se": measured.q_se,
        "correlation_predicted": at_blocks.correlation,
        "correlation_measured": measured.correlation,
        "correlation_se": measured.correlation_se,
    }
    dataset = xr.Dataset({name: values.drop_attrs() for name, values in data.items()})
    dataset = dataset.expand_dims("case").assign_coords(
        case=[case_label(case)],
        norm=("case", [case.norm or OWN_NORM]),
        alpha=("case", [math.nan if case.alpha is None else case.alpha]),
        init=("case", [case.init]),
    )
    dataset["tolerance"] = "case", [tolerance]
    dataset = dataset.assign_coords(way=("case", ["exact" if again is not None else "sampled"]))
    return dataset.assign_attrs(source="comparison", schema=SCHEMA)
