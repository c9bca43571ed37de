"""When theory and measurement agree: what is left out, what chance makes, and by how much profiles differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from criticality.lazy import lazy_module
from criticality.theory import Attention, Network, Sublayer
from criticality.theory.parts import DESCEND, rebuilt

__all__ = [
    "LARGEST_TOLERANCE",
    "THIRDS",
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
"""0.03 and 0.10 at 24 blocks of width 384, without scores and with scores of order one, where they were found (docs/theory, 9)."""


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

    def visit(one: object) -> object:
        if isinstance(one, Attention) and one.scores == "gaussian":
            sides = [
                norm.gamma**2 if norm else side.weight_variance + side.bias_variance
                for side, norm in ((one.query, one.query_norm), (one.key, one.key_norm))
            ]
            found.append(math.prod(sides) * one.score_scale**2)
        return DESCEND

    rebuilt(visit, part)
    return max(found)


def standard_errors(seeds: int) -> float:
    """How many count as chance: three, or more where few seeds leave the error itself uncertain (Student's t, one per cent)."""
    return max(3.0, float(special.stdtrit(seeds - 1, 0.995))) if seeds > 1 else 3.0


THIRDS = ("shallow", "middle", "deep")


def fold_errors(case: xr.Dataset) -> dict[str, Any]:
    """Geometric mean fold error ``GMFE = exp(mean |log J measured - log J predicted|)`` over the blocks before the last.

    Returns:
        ``gmfe``; ``gmfe_thirds``, of each third of the depth (near-equal split; ``None`` where there is no block); and
        ``gmfe_thirds_of_noise``, what it would come to if the theory were exact: ``exp(sqrt(2 / pi) mean SE)``, for normal errors
        of the standard errors that are known.
    """
    distance = abs(case.log_apjn_measured - case.log_apjn_predicted).values[:-1]
    noise = math.sqrt(2 / math.pi) * case.log_apjn_se.values[:-1]
    thirds = dict(zip(THIRDS, np.array_split(np.arange(len(distance)), 3), strict=True))

    def mean(values: np.ndarray) -> float | None:
        return float(np.exp(values.mean())) if len(values) and np.all(np.isfinite(values)) else None

    return {
        "gmfe": mean(distance),
        "gmfe_thirds": {name: mean(distance[third]) for name, third in thirds.items()},
        "gmfe_thirds_of_noise": {name: mean(noise[third]) for name, third in thirds.items()},
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
