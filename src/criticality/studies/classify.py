"""Classify any model: by the exact theory where it describes the network, else by a block run again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import nn

from criticality.errors import InputsError, NotFiniteError, UndescribedError
from criticality.models import ModelDescription
from criticality.phases import Classification, classify, equivalent_tokens
from criticality.phases.classification import DEPTHS, Class
from criticality.studies.predict import check_way
from criticality.weightless.deep import Deep, run_deep
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory, prepared

_PER_DECADE = 12
_WINDOW = 16.0
_WIDEST = 0.5

Numbers = Float[np.ndarray, " depths"]


@dataclass(frozen=True)
class SampledClassification(Classification):
    """How ``log J(0 -> L)`` of repeated blocks grows up to a finite depth, with the noise of the weights.

    The fields of ``Classification`` mean what they do there, read from the last factor of 16 in depth instead of nine
    decades: ``d log J / dL`` is fitted by ``A (L + L_0)^(exponent - 1)``, where ``L_0`` is the depth at which the growing
    stream has doubled its variance, so that the start of the growth is no part of the exponent.  ``kind`` is
    ``undetermined`` where the interval is wider than 0.5.

    Attributes:
        exponent_se, coefficient_se: standard errors by the jackknife over seeds; nan for one seed.
        log_apjn_se: of ``log_apjn``, over seeds; depths to which the stream does not stay finite are left out of both.
        depth: the greatest, in blocks.
        blocks: names of the modules that were repeated, in order.
        period: calls after which the same kind of block comes again.
        seeds: how many.
    """

    exponent_se: float
    coefficient_se: float
    log_apjn_se: dict[int, float]
    depth: int
    blocks: tuple[str, ...]
    period: int
    seeds: int


def classify_description(
    description: ModelDescription,
    *,
    way: str = "auto",
    q0: float | None = None,
    seeds: int = 4,
    seed: int = 0,
    depth: int = DEPTHS[-1],
    progress: Callable[[int], None] | None = None,
) -> tuple[Classification, dict[str, Any]]:
    """The class of a model by name.

    Args:
        description: as ``describe_model`` makes it.
        way: ``exact``, ``sampled`` or ``auto``: exact where the network is described with its tokens all alike.
        q0: variance of the input [default: that of the model's own]; of the exact way.
        seeds, depth, progress: of the sampled way; as for ``classify_sampled``.
        seed: the first, and of the inputs.

    Returns:
        The class, and what it was found with: ``way``, and of the exact way ``q0``, ``rho0`` and ``tokens``.

    Raises:
        UndescribedError: ``exact`` for a network that is not described.
        InputsError: ``q0`` for the sampled way.
        ValueError: another ``way``; as ``classify`` and ``classify_sampled``.
    """
    check_way(way)
    if way != "sampled":
        try:
            network, inputs = description.describe(seed)
            mean, rho, tokens = equivalent_tokens(inputs)
            q = mean if q0 is None else q0
            found = classify(network, q, rho0=rho, tokens=tokens)
            return found, {"way": "exact", "q0": q, "rho0": rho, "tokens": tokens}
        except UndescribedError:
            if way == "exact":
                raise
    if q0 is not None:
        raise InputsError(
            f"q0={q0!r} must be left out for a model that is run without its weights: its input is what it is"
        )
    sampled = classify_sampled(
        description.create,
        description.inputs(seed),
        range(seed, seed + seeds),
        depth=depth,
        init=description.init,
        progress=progress,
    )
    return sampled, {"way": "sampled"}


def classify_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    seeds: int | Iterable[int] = 4,
    *,
    depth: int = DEPTHS[-1],
    chain: str | None = None,
    init: str | Initializer = "own",
    progress: Callable[[int], None] | None = None,
) -> SampledClassification:
    """Classify any model by its own blocks, repeated with fresh weights (``criticality.weightless.deep.run_deep``).

    Args:
        model, inputs, chain, init: as for ``predict_sampled``.
        seeds: how many, or which.
        depth: the greatest, in blocks, 16 or above.
        progress: called with the number of blocks that a run has come on.

    Raises:
        InputsError: no seeds, or a depth that is no whole number of 16 or above.
        NotFiniteError: the stream grows so fast that fewer than 16 blocks stay finite.
        StreamNotFoundError: no block that can be repeated; as ``predict_sampled``.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise InputsError(f"seeds={seeds!r} must be at least one seed")
    if isinstance(depth, bool) or int(depth) != depth or depth < _WINDOW:
        raise InputsError(f"depth={depth!r} must be a whole number, {_WINDOW:.0f} or above")
    steps = np.logspace(0, math.log10(depth), round(_PER_DECADE * math.log10(depth)) + 1).round().astype(int)
    depths = sorted({*steps.tolist(), *(one for one in DEPTHS if one <= depth), int(depth)})
    runs: list[Deep] = []
    for seed in chosen:
        ready = prepared(model, inputs, seed, init=init, at_least=2)
        runs.append(run_deep(ready, depths, chain=chain, progress=progress))
    common = min((run.depths for run in runs), key=len)
    if common[-1] < _WINDOW:
        raise NotFiniteError(
            f"stream of the repeated blocks must stay finite for {_WINDOW:.0f} of them, and does for {common[-1]}: try a"
            " model in torch.float64"
        )
    log_j = np.array([run.log_apjn[: len(common)] for run in runs])
    q = np.array([run.q[: len(common)] for run in runs])
    return _classified(np.array(common, float), log_j, q, runs[0])


def _classified(
    depths: Numbers, log_j: Float[np.ndarray, "seeds depths"], q: Float[np.ndarray, "seeds depths"], run: Deep
) -> SampledClassification:
    shift = _doubling_depth(depths, q.mean(0))
    exponent = _exponent(depths, log_j.mean(0), shift)
    error = _jackknife(lambda mean: _exponent(depths, mean, shift), log_j)
    late = _exponent(depths, log_j.mean(0), shift, window=_WINDOW**0.5)
    spread = 2 * (0.0 if math.isnan(error) else error) + abs(late - exponent)
    grown, grown_error = _mean_and_error(log_j[:, -1] - log_j[:, _first(depths)])
    kind = _kind(exponent, spread, grown, grown_error)
    fixed = {"power": 0.0, "exponential": 1.0}.get(kind, exponent)
    coefficient = _coefficient(depths, log_j.mean(0), shift, fixed)
    coefficient_error = _jackknife(
        lambda mean: _coefficient(
            depths, mean, shift, fixed if kind != "stretched" else _exponent(depths, mean, shift)
        ),
        log_j,
    )
    if kind == "power":
        exponent, error, spread = coefficient, coefficient_error, 2 * coefficient_error + abs(late) * coefficient
    if kind in ("power", "decaying"):
        coefficient = coefficient_error = math.nan
    if kind == "decaying":
        exponent = error = spread = math.nan
    means, errors = zip(*(_mean_and_error(column) for column in log_j.T), strict=True)
    at = {int(depth): number for number, depth in enumerate(depths) if int(depth) in (*DEPTHS, int(depths[-1]))}
    return SampledClassification(
        kind,
        1.0 if kind == "exponential" else exponent,
        coefficient,
        (exponent - spread, exponent + spread),
        shift if kind in ("power", "stretched") else math.nan,
        None,
        None,
        {depth: means[number] for depth, number in at.items()},
        error,
        coefficient_error,
        {depth: errors[number] for depth, number in at.items()},
        int(depths[-1]),
        run.run.names,
        run.run.period,
        len(log_j),
    )


def _kind(exponent: float, spread: float, grown: float, grown_error: float) -> Class:
    """Of the classes between which the exponent lies, that which its interval reaches."""
    if grown <= 2 * (0.0 if math.isnan(grown_error) else grown_error):
        return "decaying"
    if spread > _WIDEST / 2:
        return "undetermined"
    if exponent + spread >= 1:
        return "exponential"
    return "power" if exponent - spread <= 0 else "stretched"


def _doubling_depth(depths: Numbers, q: Numbers) -> float:
    """Depth by which a stream whose variance grows linearly over the window has twice that of its start; 0 if it does not."""
    first = _first(depths)
    rate = float((q[-1] - q[first]) / (depths[-1] - depths[first]))
    if rate <= 0:
        return 0.0
    shift = max(0.0, float(q[first]) / rate - float(depths[first]))
    return shift if shift < 10 * depths[-1] else 0.0


def _first(depths: Numbers, window: float = _WINDOW) -> int:
    return int(np.searchsorted(depths, depths[-1] / window))


def _expected(depths: Numbers, shift: float, exponent: float) -> Numbers:
    """Increments of ``integral (L + shift)^(exponent - 1) dL``."""
    x = np.log(depths + shift)
    grown = x if abs(exponent) < 1e-9 else np.expm1(exponent * (x - x[-1])) / exponent * math.exp(exponent * x[-1])
    return np.diff(grown)


def _exponent(depths: Numbers, log_j: Numbers, shift: float, window: float = _WINDOW) -> float:
    """Least squares of increments, each weighted by what is expected of it, as their noise adds up block by block."""
    first = _first(depths, window)
    depths, increments = depths[first:], np.diff(log_j[first:])
    total = float(increments.sum())

    def misfit(exponent: float) -> float:
        expected = _expected(depths, shift, exponent)
        expected = expected * (total / expected.sum())
        return float(np.sum((increments - expected) ** 2 / np.abs(expected)))

    return float(minimize_scalar(misfit, bounds=(-1.5, 2.5), method="bounded", options={"xatol": 1e-4}).x)


def _coefficient(depths: Numbers, log_j: Numbers, shift: float, exponent: float) -> float:
    """Of ``L^exponent``, from the whole increase over the window; of ``log L`` where the exponent is 0."""
    first = _first(depths)
    grown = float(log_j[-1] - log_j[first])
    return grown / float(_expected(depths[first:], shift, exponent).sum()) / (exponent if abs(exponent) > 1e-9 else 1.0)


def _jackknife(value: Callable[[Numbers], float], rows: Float[np.ndarray, "seeds depths"]) -> float:
    """Standard error of a function of the mean of rows, leaving out one after the other (Efron and Stein 1981)."""
    if len(rows) < 2:
        return math.nan
    without = np.array([value(np.delete(rows, number, axis=0).mean(0)) for number in range(len(rows))])
    return float(np.sqrt((len(rows) - 1) * without.var()))


def _mean_and_error(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error
