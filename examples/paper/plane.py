"""Doshi's plane: accuracy over (sigma_w, sigma_b) beside chi of the last layer, by theory, one panel for each kind of network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import xarray as xr

from criticality.errors import ArgumentError
from criticality.phases import amplification_map
from criticality.pointwise import Pointwise, get_function
from criticality.studies.association import Estimate, spearman
from criticality.sweeps import packed_dataset
from criticality.theory import Layer
from kept import DATA

STUDIES = ("plane", "plane_residual")

INPUT_VARIANCE = 0.2063
"""``K`` at the start of the stream: mean square of FashionMNIST's pixels in [0, 1], as the embedding is fan-in (tested)."""


@dataclass(frozen=True)
class Panel:
    """One kind of network over the plane.

    Attributes:
        norm, activation, mu: of ``x <- mu x + W phi(norm(x)) + b``.
        depth: layers.
        sigma_w, sigma_b: axes, ascending.
        accuracy: on test images at the rate of best validation accuracy, ``(sigma_b, sigma_w)``; ``nan`` where nothing was run.
        rates: how many rates were run at each point.
    """

    norm: str
    activation: str
    mu: float
    depth: int
    sigma_w: np.ndarray
    sigma_b: np.ndarray
    accuracy: np.ndarray
    rates: np.ndarray

    @cached_property
    def log_chi(self) -> np.ndarray:
        """``log chi*``, of the last layer, by theory, ``(sigma_b, sigma_w)``."""
        return last_log_chi(
            self.norm, self.activation, self.mu, self.depth, self.sigma_w[None, :] ** 2, self.sigma_b[:, None] ** 2
        )

    def correlation(self, resamples: int = 2000, seed: int = 0) -> Estimate:
        """Spearman's of accuracy and ``|log chi*|`` over the points that were run, its interval by resampling points.

        Raises:
            ValueError: fewer than eight points.
        """
        there = np.isfinite(self.accuracy)
        x, y = np.abs(self.log_chi)[there], self.accuracy[there]
        if len(x) < 8:
            raise ArgumentError(f"panel must hold eight points to correlate, and holds {len(x)}")
        drawn = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
        low, high = np.quantile(spearman(x[drawn], y[drawn]), [0.025, 0.975])
        return Estimate(float(spearman(x, y)), float(low), float(high), len(x))


def last_log_chi(
    norm: str,
    activation: str,
    mu: float,
    depth: int,
    weight_variance: np.ndarray,
    bias_variance: np.ndarray,
    q: float = INPUT_VARIANCE,
) -> np.ndarray:
    """``log chi`` of the last of ``depth`` layers of ``x <- mu x + W phi(norm(x)) + b``.

    Without a norm ``chi = mu^2 + sigma_w^2 D(K)`` (``phases.maps``).  With LayerNorm before ``phi``, moments are of unit variance:
    ``K <- mu^2 K + sigma_w^2 V + sigma_b^2``, ``chi = mu^2 + sigma_w^2 D / K`` (source.md A1; Doshi, He, Gromov 2023).

    Raises:
        ValueError: another norm than ``none`` and ``ln``.
    """
    if norm == "none":
        function = get_function(activation)
        return amplification_map(
            function, depth, weight_variance=weight_variance, bias_variance=bias_variance, skip=mu, q0=q, threads=1
        ).log_chi
    if norm != "ln":
        raise ArgumentError(f"norm={norm!r} must be 'none' or 'ln'")
    moments = Pointwise(get_function(activation))
    value, slope = float(moments.V(1.0)), float(moments.D(1.0))
    layer = Layer(lambda k: (value, slope / k), weight_variance, bias_variance, skip=mu)
    start = np.full(np.broadcast_shapes(weight_variance.shape, bias_variance.shape), q)
    found: np.ndarray = np.log(next(islice(layer.states(start), depth - 1, None))[1])
    return found


def read_panels(data: xr.Dataset) -> list[Panel]:
    """The panels of a study of ``fashion-mlp`` over ``learning_rate``, ``sigma_w`` and ``sigma_b``, in its order; those begun.

    Raises:
        ValueError: a dataset that is not one.
    """
    missing = [name for name in ("sigma_w", "sigma_b", "activation", "test_accuracy") if name not in data]
    if missing:
        raise ArgumentError(f"data must be a study of the plane, and lacks {', '.join(missing)}")
    kinds = list(zip(data.norm.values.tolist(), data.activation.values.tolist(), data.mu.values.tolist(), strict=True))
    w, b = np.unique(data.sigma_w.values), np.unique(data.sigma_b.values)
    found = []
    for norm, activation, mu in dict.fromkeys(kinds):
        mine = np.array([kind == (norm, activation, mu) for kind in kinds]) & (data.status.values == "done")
        best, test, count = (
            np.full((len(b), len(w)), -np.inf),
            np.full((len(b), len(w)), np.nan),
            np.zeros((len(b), len(w))),
        )
        for cell in np.flatnonzero(mine):
            at = np.searchsorted(b, data.sigma_b.values[cell]), np.searchsorted(w, data.sigma_w.values[cell])
            count[at] += 1
            validation = float(data.validation_accuracy.values[cell].mean())
            if validation > best[at]:
                best[at], test[at] = validation, float(data.test_accuracy.values[cell].mean())
        if count.any():
            found.append(Panel(norm, activation, mu, int(data.depth.values[0]), w, b, test, count))
    return found


def kept_panels() -> tuple[list[Panel], int]:
    """Panels of the packed studies of the plane, and how many cells of them are done."""
    packs = [path for path in (DATA / f"{name}.zarr.zip" for name in STUDIES) if path.exists()]
    studies = [packed_dataset(path) for path in packs]
    done = sum(int((data.status.values == "done").sum()) for data in studies)
    return [panel for data in studies for panel in read_panels(data)], done
