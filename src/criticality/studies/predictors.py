"""What is known of a choice before its first step: predictors of how it will train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from criticality.laboratory.names import STACKED
from criticality.studies.training import Choice, Trainings

__all__ = [
    "MEASURED",
    "PREDICTORS",
    "Predictors",
    "inverse_q",
    "layer_norm_log_apjn",
    "layer_norms_by_gain",
    "log_alpha",
]

PREDICTORS = {
    "log_apjn": "log J(0 → L)",
    "log_q_last": "log K_L",
    "branch_share": "share of the branches, 1 − K_0/K_L",
    "log_alpha": "log α (mean over layers)",
    "mean_slope": "slope E φ'²/φ'(0)², mean over layers",
    "least_slope": "the same, least over layers",
    "saturated": "saturated share",
    "correlation": "correlation ρ_L of two inputs",
    "correlation_slope": "dρ_L/dρ_0",
    "near_layer_norm": "minus the distance of log J to LayerNorm's at this σ_w",
    "near_critical": "minus the distance to criticality, log J − log K_L/K_0 = L λ_a",
    "rate_of_growth": "log J / L = λ_g",
    "log_sharpness": "log sharpness",
    "log_adam_sharpness": "log sharpness preconditioned as Adam's first step",
    "log_sign_step": "log relative change of the stream by one step of signs, per rate",
}
"""Names and what they are. ``near_critical``: at given ``K_L/K_0`` the least ``log J`` is ``log K_L/K_0`` (Poincaré's inequality,
``Var phi <= K E phi'^2``: LayerNorm's and a linear branch's), so the distance to it is, to the layer, ``lambda_a`` of Cowsik et
al. (2024): the growth of ``log(1 - rho)`` where two inputs are near.  ``rate_of_growth`` is their ``lambda_g``, at finite depth."""

MEASURED = ("correlation_slope", "log_sharpness", "log_adam_sharpness", "log_sign_step")
"""Those that trainings do not store: ``laboratory.initial`` computes them once for each choice (initial_*.yaml)."""

_INITIAL = 0


class Predictors:
    """Predictors of the choices of one study, by seed, from what its runs stored before their first step.

    Args:
        trainings: the study.
        measured: a study of ``compute: initial`` with the same choices; without, what is ``MEASURED`` is ``nan``.
    """

    def __init__(self, trainings: Trainings, measured: xr.Dataset | None = None):
        self.data = trainings.data
        self._measured = {} if measured is None else _measured(measured)
        self._inverse_q = inverse_q(trainings)
        self._layer_norms = layer_norms_by_gain(trainings)
        self._read: dict[int, dict[str, np.ndarray]] = {}

    def by_seed(self, choice: Choice) -> dict[str, np.ndarray]:
        """Each predictor ``(seeds,)``, ``nan`` where it is not defined."""
        cell = int(choice.cells[0])  # the same at every rate
        if cell not in self._read:
            self._read[cell] = self._of_cell(choice, cell)
        return self._read[cell]

    def _of_cell(self, choice: Choice, cell: int) -> dict[str, np.ndarray]:
        stored = {
            name: self.data[f"{name}_series"].values[cell][:, _INITIAL].astype(float)
            if f"{name}_series" in self.data
            else np.full((choice.seeds, 1), math.nan)  # a study without pointwise norms has no slopes
            for name in ("log_q", "log_slope", "saturated", "correlation")
        }
        log_apjn = self.data["log_apjn_by_run"].values[cell].astype(float)
        first, last = stored["log_q"][:, 0], stored["log_q"][:, -1]
        slopes = np.exp(stored["log_slope"])
        found = {
            "log_apjn": log_apjn,
            "log_q_last": last,
            "branch_share": 1 - np.exp(first - last),
            "log_alpha": np.full(choice.seeds, log_alpha(choice)),
            "mean_slope": slopes.mean(1),
            "least_slope": slopes.min(1),
            "saturated": stored["saturated"].mean(1),
            "correlation": stored["correlation"][:, -1],
            "near_layer_norm": -np.abs(log_apjn - self._layer_norm(choice, first)),
            "near_critical": -(log_apjn - (last - first)),
            "rate_of_growth": log_apjn / choice.depth,
        }
        absent = {name: np.full(choice.seeds, math.nan) for name in MEASURED}
        return found | absent | self._measured.get(_key(choice.settings), {})

    def _layer_norm(self, choice: Choice, first: np.ndarray) -> float | np.ndarray:
        """``log J`` of LayerNorm with the same weights: of the recursion by theory, of a transformer as its choices have it."""
        if choice.settings.get("task", STACKED[0]) in STACKED:
            return layer_norm_log_apjn(choice, self._inverse_q or np.exp(-first))
        return self._layer_norms.get(float(choice.settings.get("mlp_gain", 1.0)), math.nan)

    def read(self, choice: Choice, seeds: Sequence[int]) -> dict[str, float]:
        """Means over the seeds picked."""
        picked = list(seeds)
        return {name: float(values[picked].mean()) for name, values in self.by_seed(choice).items()}


def log_alpha(choice: Choice) -> float:
    """Mean over layers of ``log alpha``, ``nan`` for norms that have none."""
    from criticality.laboratory.residual_run import ResidualRun

    if choice.settings.get("task", STACKED[0]) not in STACKED:
        return math.log(choice.settings["alpha"]) if "alpha" in choice.settings else math.nan
    alphas = ResidualRun(**choice.settings).alphas()
    return float(np.mean(np.log(alphas))) if alphas else math.nan


def layer_norm_log_apjn(choice: Choice, inverse_q: float | np.ndarray) -> float | np.ndarray:
    """``log J(0 -> L)`` of the same recursion with LayerNorm, ``log (1 + sigma_w^2 L E 1/K_0)`` at ``sigma_b = 0``.

    The kernel grows by ``sigma_w^2`` a layer and each layer multiplies J by the ratio of kernels, so that ``J = K_L / K_0`` of each
    input.
    """
    sigma = float(choice.settings.get("sigma_w", 1.0))
    found: float | np.ndarray = np.log1p(sigma**2 * choice.depth * inverse_q)
    return found


def inverse_q(trainings: Trainings) -> float | None:
    """``E 1/K_0`` over inputs, as log J of the LayerNorm choices of a study says; ``None`` where it has none."""
    found = [
        np.expm1(trainings.data["log_apjn_by_run"].values[choice.cells[0]].astype(float))
        / (float(choice.settings.get("sigma_w", 1.0)) ** 2 * choice.depth)
        for choice in trainings.begun
        if choice.settings["norm"] == "ln"
    ]
    return float(np.mean(found)) if found else None


def layer_norms_by_gain(trainings: Trainings) -> dict[float, float]:
    """``log J`` of the LayerNorm choices of a study, by the gain of the MLPs."""
    return {
        float(choice.settings.get("mlp_gain", 1.0)): trainings.log_apjn(choice)
        for choice in trainings.begun
        if choice.settings["norm"] == "ln"
    }


def _measured(data: xr.Dataset) -> dict[tuple[object, ...], dict[str, np.ndarray]]:
    done = np.flatnonzero(data.status.values == "done")
    found = {}
    for cell in done:
        settings = {name: data[name].values[cell] for name in _KEYED if name in data.coords}
        found[_key(settings)] = {name: data[name].values[cell].astype(float) for name in MEASURED}
    return found


_KEYED = ("norm", "alpha", "sigma_w", "schedule", "depth")


def _key(settings: Mapping[str, object]) -> tuple[object, ...]:
    """The same for a cell of either study: absent, empty and nan are one."""

    def plain(value: object) -> object:
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        return None if empty else (str(value) if isinstance(value, (str, bool)) else float(value))  # type: ignore[arg-type]

    return tuple(plain(settings.get(name)) for name in _KEYED)
