"""When theory and measurement agree: what is left out, what chance makes, and by how much profiles differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from criticality.lazy import lazy_module
from criticality.theory import Attention, Network, Sublayer
from criticality.theory.parts import parts_of

__all__ = [
    "LARGEST_TOLERANCE",
    "THIRDS",
    "fold_error",
    "fold_error_of_noise",
    "fold_errors",
    "standard_errors",
    "tolerance_of",
    "verdict",
    "weak_agreement",
]

special = lazy_module("scipy.special")

_WEAK = 0.5
LARGEST_TOLERANCE = 0.10
_OF_WIDTH, _OF_SCORES = 0.48, 1.12
"""0.03 and 0.10 at 24 blocks of width 384, without scores and with scores of order one: bounds to what ViTs were measured to be
off by there, 0.01 and 0.09 at most (docs/theory, 9)."""


def tolerance_of(network: Network | None, width: int, blocks: int) -> float:
    """Largest ``|log J predicted - measured|`` beyond three standard errors that counts as agreement.

    What the limit of wide networks leaves out is of order depth over width, and more where scores are not small.

    Args:
        network: as it was read; of ``None`` scores are taken for of order one.
        width, blocks: of the stream.
    """
    scores = 1.0 if network is None else max(map(_score_variance, network.sublayers), default=0.0)
    return min(LARGEST_TOLERANCE, blocks / width * (_OF_WIDTH + _OF_SCORES * min(scores, 1.0)))


def _score_variance(part: Sublayer) -> float:
    """The largest variance of a score between tokens at unit variance in a sub-layer; 0 without attention."""
    found = [0.0]
    for one in parts_of(part, Attention):
        if one.scores == "gaussian":
            sides = [
                norm.gamma**2 if norm else side.weight_variance + side.bias_variance
                for side, norm in ((one.query, one.query_norm), (one.key, one.key_norm))
            ]
            found.append(math.prod(sides) * one.score_scale**2)
    return max(found)


def standard_errors(seeds: int) -> float:
    """How many count as chance: three, or more where few seeds leave the error itself uncertain (Student's t, one per cent)."""
    return max(3.0, float(special.stdtrit(seeds - 1, 0.995))) if seeds > 1 else 3.0


THIRDS = ("shallow", "middle", "deep")


def fold_error(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Geometric mean fold error ``GMFE = exp(mean |log J measured - log J predicted|)`` over blocks."""
    return float(np.exp(np.abs(np.subtract(measured, predicted)).mean()))


def fold_error_of_noise(error: ArrayLike) -> float:
    """What it would come to if the theory were exact: ``exp(sqrt(2 / pi) mean SE)``, for normal errors of these standard errors."""
    return math.exp(math.sqrt(2 / math.pi) * float(np.mean(np.asarray(error))))


def fold_errors(case: xr.Dataset) -> dict[str, Any]:
    """``fold_error`` over the blocks before the last.

    Returns:
        ``gmfe``; ``gmfe_thirds``, of each third of the depth (near-equal split; ``None`` where there is no block or no standard
        error); and ``gmfe_thirds_of_noise``, ``fold_error_of_noise`` of the same blocks.
    """
    measured, predicted, error = (
        case[name].values[:-1] for name in ("log_apjn_measured", "log_apjn_predicted", "log_apjn_se")
    )
    thirds = dict(zip(THIRDS, np.array_split(np.arange(len(measured)), 3), strict=True))

    def finite(value: Callable[..., float], *arrays: np.ndarray) -> float | None:
        return value(*arrays) if len(arrays[0]) and np.all(np.isfinite(arrays)) else None

    return {
        "gmfe": finite(fold_error, measured, predicted),
        "gmfe_thirds": {name: finite(fold_error, measured[part], predicted[part]) for name, part in thirds.items()},
        "gmfe_thirds_of_noise": {name: finite(fold_error_of_noise, error[part]) for name, part in thirds.items()},
    }


def weak_agreement(record: Mapping[str, Any]) -> str:
    """A sentence where few seeds leave so large an error that agreement says little, from ``summary``; else nothing."""
    widest = max(
        (case["largest_allowed"] or 0.0 for case in record["cases"] if case["verdict"] == "agrees"), default=0.0
    )
    if widest <= _WEAK:
        return ""
    return (
        f"'agrees' is weak here: with {record['seeds']} seeds a deviation of log J up to {widest:.2f} would not be seen"
        f" (tolerance and standard errors); more --seeds make it sharper."
    )


def verdict(excess: np.ndarray) -> str:
    """``agrees`` when no layer deviates by more than is allowed, ``deviates`` when one does, ``unknown`` when the
    standard error is not known (one seed)."""
    known = excess[np.isfinite(excess)]
    if len(known) < len(excess):
        return "unknown"
    return "agrees" if np.all(known <= 0) else "deviates"
