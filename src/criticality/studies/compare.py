"""Theory against measurement: models built, measured and predicted, case by case, resumable."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from criticality import __version__
from criticality.arguments import Depth, Positive, Samples, Seed, Size, Threads, check_fields, checked
from criticality.devices import torch_device
from criticality.errors import (
    ArgumentError,
    CriticalityError,
    FileError,
    TokensNotEquivalentError,
    UndescribedError,
)
from criticality.initialized import Initialized, heard, tell
from criticality.measurement import ensemble_dataset, ensemble_profiles, output_kernels
from criticality.models import ModelSpec, model_spec
from criticality.probes import Probe, check_probe
from criticality.schema import (
    SCHEMA,
    check_can_be_made,
    plain,
    read_dataset,
    require_variables,
    source_digest,
    write_dataset,
    write_text,
)
from criticality.studies.agreement import fold_errors, standard_errors, tolerance_of, verdict
from criticality.studies.apart import results_apart
from criticality.studies.predict import predict_description
from criticality.theory import Network, SymmetricKernel, TokenKernel, propagate
from criticality.theory.network import mean_network
from criticality.theory.norms import takes_alpha
from criticality.threads import one_thread

OWN_NORM = "own"
"""The norms that a model has."""

_APART = 100_003
"""Between the seeds of a measurement and those of a sampled prediction, which must not be the same."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: one model, and the grid of norms, alphas and initializations.

    Attributes:
        model: as ``criticality.models.model_spec`` takes it.
        norms: names of norms; pointwise ones are crossed with ``alphas``, the others appear once.
        inits: ``own``, ``fan-in`` or both.
        depth, width, image_size, tokens, text: changes to the model; ``None`` keeps its own.
        seeds: how many weight seeds are averaged, from ``seed`` on.
        probes: backward passes for each seed.
        samples: score matrices per attention layer in the theory.
        probe: where the backward pass starts, in the theory and in the measurement: ``normal``, ``pooled``, ``class`` or ``loss``
            (``criticality.probes``).
        device: where the measurement runs.
    """

    model: str
    norms: tuple[str, ...] = ("ln", "dyt", "derf")
    alphas: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    inits: tuple[str, ...] = ("own",)
    depth: Depth | None = None
    width: Size | None = None
    image_size: Size | None = None
    tokens: Size | None = None
    text: str | None = None
    seeds: Size = 6
    seed: Seed = 0
    probes: Size = 1
    samples: Samples = 16
    probe: str = "normal"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("norms", "alphas", "inits"):
            if not getattr(self, name):
                raise ArgumentError(f"{name}=() must hold at least one value")
        check_probe(self.probe)
        torch_device(self.device)
        self.cases()

    def cases(self) -> list[ModelSpec]:
        """Every model of the comparison.

        Raises:
            ValueError: for a model, norm, alpha, init or size that is not allowed.
        """
        changes = {name: getattr(self, name) for name in ("depth", "width", "image_size", "tokens", "text")}
        return [
            model_spec(self.model, norm=None if norm == OWN_NORM else norm, alpha=alpha, init=init, **changes)
            for init in dict.fromkeys(self.inits)
            for norm in dict.fromkeys(self.norms)
            for alpha in (dict.fromkeys(self.alphas) if norm != OWN_NORM and takes_alpha(norm) else (None,))
        ]


@checked
def compare(
    comparison: Comparison,
    out: str | Path,
    progress: Callable[[str, int], None] | None = None,
    *,
    workers: Threads = 1,
) -> xr.Dataset:
    """Run every case that ``out`` does not hold yet, and gather all of them.

    Each finished case is one file ``cases/*.nc``, written whole; after each, ``result.nc`` and ``summary.json`` hold
    all finished cases.  A rerun with the same comparison, library and timm takes up where the last one stopped.

    Args:
        progress: ``progress(label, steps)`` is called as work is done, ``steps_per_case`` steps to a case.
        workers: cases at once; from two on each in a process of its own, with its share of the cores. The numbers are the same.

    Returns:
        Dataset over ``case`` and ``block`` (``0 .. depth``), see ``gather``.

    Raises:
        ValueError: a case file of this comparison that is corrupt; an ``out`` that cannot be made or written.
        UnreachableError: a process of ``workers`` that was ended from outside.
    """
    folder = Path(out)
    if folder.is_file():
        raise FileError(f"out={str(folder)!r} must be a folder, and is a file")
    check_can_be_made(folder / "cases")
    paths = {case: folder / "cases" / _file_name(comparison, case) for case in comparison.cases()}
    computed = _computed(comparison, [case for case, path in paths.items() if not path.exists()], workers, progress)
    finished: list[xr.Dataset] = []
    for case, path in paths.items():
        if path.exists():
            finished.append(read_dataset(path))
            if progress is not None:
                progress(case_label(case), steps_per_case(comparison))
        else:
            finished.append(next(computed))
            write_dataset(finished[-1], path)
        result = gather(finished, comparison)
        write_dataset(result, folder / "result.nc")
        write_text(json.dumps(summary(result), indent=1) + "\n", folder / "summary.json")
    return result


def _file_name(comparison: Comparison, case: ModelSpec) -> str:
    return f"{case_label(case).replace(' ', '_').replace('=', '')}-{_key(comparison, case)}.nc"


def _computed(
    comparison: Comparison,
    cases: Sequence[ModelSpec],
    workers: int,
    progress: Callable[[str, int], None] | None,
) -> Iterator[xr.Dataset]:
    """The cases in order, here or in processes, of which none is started before the first is asked for."""
    workers = min(workers, len(cases))
    if workers < 2:
        yield from (run_case(comparison, case, progress) for case in cases)
        return
    found = results_apart(partial(_apart, comparison), cases, workers)
    with closing(found):
        for case, (dataset, drawn) in zip(cases, found, strict=True):
            for one in drawn:
                tell(one)
            if progress is not None:
                progress(case_label(case), steps_per_case(comparison))
            yield dataset


def _apart(comparison: Comparison, case: ModelSpec) -> tuple[xr.Dataset, list[Initialized]]:
    """One case, and what its initialization is to be told of in the process that asks."""
    with heard() as drawn:
        return run_case(comparison, case), drawn


@checked
def steps_per_case(comparison: Comparison) -> int:
    """Progress steps of one case: one for each seed, one for the prediction."""
    return comparison.seeds + 1


def case_label(case: ModelSpec) -> str:
    """Short name of a case: ``dyt alpha=0.5 timm``."""
    alpha = f" alpha={case.alpha:g}" if case.alpha is not None else ""
    return f"{case.norm or OWN_NORM}{alpha} {case.init}"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _key(comparison: Comparison, case: ModelSpec) -> str:
    settings = {name: getattr(comparison, name) for name in ("seeds", "seed", "probes", "samples", "probe")}
    made_by = {
        "criticality": __version__,
        "source": source_digest("pointwise", "theory", "stream", "weightless", "measurement", "models"),
        "timm": _installed("timm"),
        "schema": SCHEMA,
    }
    described = {"kind": type(case).__name__, **asdict(case)}  # type: ignore[call-overload]
    text = json.dumps({**described, **settings, **made_by}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_case(comparison: Comparison, case: ModelSpec, progress: Callable[[str, int], None] | None = None) -> xr.Dataset:
    """Build, measure and predict one case (see ``compare``)."""
    label = case_label(case)
    networks: list[Network] = []
    sent_back: list[np.ndarray] = []
    with _norms_changed(case):
        batch = case.inputs(comparison.seed)
    described = True

    def build(seed: int) -> torch.nn.Module:
        nonlocal described
        with _norms_changed(case):
            model = case.build()
        try:
            if described:
                networks.append(case.network(model))
                if comparison.probe == "loss":
                    sent_back.append(output_kernels(model, batch, points=case.points, seed=seed))
        except UndescribedError:
            described = False
        return model

    seeds = range(comparison.seed, comparison.seed + comparison.seeds)
    profiles = ensemble_profiles(
        build,
        batch,
        seeds,
        case.points,
        comparison.probes,
        comparison.probe,
        device=comparison.device,
        progress=None if progress is None else lambda seed: progress(label, 1),
        kernels=True,
    )
    measured = ensemble_dataset(
        profiles, probes=comparison.probes, probe=comparison.probe, seeds=comparison.seeds, seed=comparison.seed
    )
    blocks, width = measured.sizes["block"] - 1, profiles[0].width
    if not described:
        predicted = predict_description(
            case, way="sampled", seeds=comparison.seeds, seed=comparison.seed + _APART, probe=comparison.probe
        )
        if progress is not None:
            progress(label, 1)
        return _case_dataset(case, measured, predicted, None, None, tolerance_of(None, width, blocks))
    network = mean_network(networks)
    inputs = [
        TokenKernel.of(kernel) for kernel in np.mean([one.start for one in profiles if one.start is not None], axis=0)
    ]
    start: Probe = np.mean(sent_back, axis=0) if sent_back else comparison.probe
    seeds_of_scores = (comparison.seed, comparison.seed + 1_000_003)
    with one_thread(), ThreadPoolExecutor(2) as pool:
        predicted, again = pool.map(
            lambda one: propagate(network, inputs, samples=comparison.samples, seed=one, probe=start), seeds_of_scores
        )
    symmetric = _equivalent_tokens(network, inputs, np.mean(sent_back, axis=(0, 1)) if sent_back else comparison.probe)
    if progress is not None:
        progress(label, 1)
    return _case_dataset(case, measured, predicted, again, symmetric, tolerance_of(network, width, blocks))


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
    predicted: xr.Dataset,
    again: xr.Dataset | None,
    symmetric: xr.Dataset | None,
    tolerance: float,
) -> xr.Dataset:
    """One case; ``again`` is a second, independent run of the exact theory, whose attention is sampled."""
    blocks = measured.block
    at_blocks = predicted.sel(block=blocks)
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


def gather(cases: Sequence[xr.Dataset], comparison: Comparison) -> xr.Dataset:
    """All cases in one dataset, with ``deviation``, what is ``allowed`` and whether they ``agree``.

    ``log_apjn_symmetric`` is the theory of equivalent tokens, for contrast; ``allowed`` is ``tolerance_of`` the
    case and ``standard_errors`` of measurement and prediction together.
    """
    result = xr.concat(list(cases), "case", combine_attrs="override")
    result["deviation"] = abs(result.log_apjn_predicted - result.log_apjn_measured)
    error = np.hypot(result.log_apjn_se, result.log_apjn_predicted_se)
    result["allowed"] = result.tolerance + standard_errors(comparison.seeds) * error
    settings = {key: json.dumps(value) for key, value in asdict(comparison).items()}
    return result.assign_attrs(source="comparison", schema=SCHEMA, version=__version__, **settings)


@checked
def summary(result: xr.Dataset) -> dict[str, Any]:
    """The comparison as JSON: settings, and for each case its profiles, largest deviation and verdict.

    Raises:
        ArgumentError: a dataset that is no comparison.
    """
    require_variables(result, "result", "log_apjn_predicted", "log_apjn_measured", "deviation", "allowed", "tolerance")
    cases = []
    for index in range(result.sizes["case"]):
        case = result.isel(case=index)
        excess = (case.deviation - case.allowed).values
        worst = int(np.nanargmax(case.deviation.values))
        cases.append(
            {
                "norm": str(case.norm.values),
                "alpha": plain(float(case.alpha)),
                "init": str(case.init.values),
                "way": str(case.way.values),
                "log_apjn_predicted": plain(case.log_apjn_predicted.values),
                "log_apjn_measured": plain(case.log_apjn_measured.values),
                "log_apjn_se": plain(case.log_apjn_se.values),
                "log_apjn_symmetric": plain(case.log_apjn_symmetric.values),
                "largest_deviation": plain(float(case.deviation[worst])),
                "largest_deviation_block": int(case.block[worst]),
                "largest_allowed": plain(float(case.allowed.max())),
                "tolerance": plain(float(case.tolerance)),
                "verdict": verdict(excess),
                **fold_errors(case),
            }
        )
    settings = {key: json.loads(result.attrs[key]) for key in asdict_keys(result)}
    return {"criticality": __version__, **settings, "cases": cases}


def asdict_keys(result: xr.Dataset) -> list[str]:
    """Names of the comparison's settings among the attributes of a gathered dataset."""
    return [name for name in Comparison.__dataclass_fields__ if name in result.attrs]
