"""What a study of trainings says about criticality: largest stable learning rates, final quality, and rank correlations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

TRAINED = 0.9
"""A run trains when its last ten losses average below this share of its first loss, and it did not diverge."""


@dataclass(frozen=True)
class Choice:
    """One norm with its alpha or prescription, at one depth, over learning rates and seeds.

    Attributes:
        label, depth: what it is.
        log_apjn: at initialization, mean over seeds.
        largest_stable: learning rate, the largest at which most seeds train; 0 if they do at none.
        best_score: largest over learning rates of the median score over seeds.
        step_seconds: median time of a step.
    """

    label: str
    depth: int
    log_apjn: float
    largest_stable: float
    best_score: float
    step_seconds: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation and its 95 per cent interval, from resampling seeds and choices."""

    value: float
    low: float
    high: float
    choices: int


@dataclass(frozen=True)
class _Runs:
    """Runs of one choice as ``(rates, seeds)``."""

    label: str
    depth: int
    log_apjn: float
    step_seconds: float
    rates: np.ndarray
    trains: np.ndarray
    score: np.ndarray

    def choice(self, seeds: np.ndarray | None = None) -> Choice:
        trains, score = (self.trains, self.score) if seeds is None else (self.trains[:, seeds], self.score[:, seeds])
        stable = np.flatnonzero(np.mean(trains, axis=1) > 0.5)
        largest = float(self.rates[stable[-1]]) if len(stable) else 0.0
        best = float(np.max(np.median(score, axis=1)))
        return Choice(self.label, self.depth, self.log_apjn, largest, best, self.step_seconds)


def choices(study: xr.Dataset) -> list[Choice]:
    """Every choice of a store of trainings (``Store.dataset``).

    Raises:
        ValueError: a dataset that is not one of trainings.
    """
    return [runs.choice() for runs in _runs(study)]


def _runs(study: xr.Dataset) -> list[_Runs]:
    names = (
        "last_loss",
        "first_loss",
        "score",
        "diverged",
        "step_seconds",
        "log_apjn",
        "learning_rate",
        "seed",
        "depth",
    )
    missing = [name for name in (*names, "status", "norm") if name not in study]
    if missing:
        raise ValueError(f"study must be one of trainings, and lacks {', '.join(missing)}")
    done = np.flatnonzero(study.status.values == "done")
    labels = label_of_cells(study)[done]
    column = {name: study[name].values[done] for name in names}
    rates, seeds = np.unique(column["learning_rate"]), np.unique(column["seed"])
    trains = (column["diverged"] == 0) & (column["last_loss"] < TRAINED * column["first_loss"])
    found = []
    for label, depth in dict.fromkeys(zip(labels.tolist(), column["depth"].astype(int).tolist(), strict=True)):
        mine = (labels == label) & (column["depth"] == depth)
        table = np.zeros((2, len(rates), len(seeds)))
        table[1] = -np.inf  # a run that is missing has not trained
        place = np.searchsorted(rates, column["learning_rate"][mine]), np.searchsorted(seeds, column["seed"][mine])
        table[0][place], table[1][place] = trains[mine], column["score"][mine]
        means = float(np.mean(column["log_apjn"][mine])), float(np.median(column["step_seconds"][mine]))
        found.append(_Runs(label, depth, *means, rates, *table))
    return found


def label_of_cells(study: xr.Dataset) -> np.ndarray:
    """``dyt 0.5``, ``ln``, ``dyt schedule`` for every cell."""
    empty = np.full(study.sizes["cell"], "")
    prescriptions = study["prescription"].values if "prescription" in study.coords else empty
    alphas = study["alpha"].values if "alpha" in study.coords else np.full(study.sizes["cell"], np.nan)
    return np.array(
        [
            f"{norm} {prescription}".strip() if prescription or np.isnan(alpha) else f"{norm} {alpha:g}"
            for norm, alpha, prescription in zip(study.norm.values, alphas, prescriptions, strict=True)
        ]
    )


def correlation(
    study: xr.Dataset,
    quantity: Callable[[Choice], float],
    *,
    keep: Callable[[Choice], bool] = lambda choice: True,
    order: Callable[[Choice], float] = lambda choice: choice.log_apjn,
    resamples: int = 300,
    seed: int = 0,
) -> Correlation:
    """Of ``log J`` at initialization, or another ``order``, and a quantity of the choices, over all that are kept.

    Raises:
        ValueError: fewer than four choices.
    """
    rng = np.random.default_rng(seed)
    table = [runs for runs in _runs(study) if keep(runs.choice())]
    kept = [runs.choice() for runs in table]
    if len(kept) < 4:
        raise ValueError(f"study must hold at least four choices to correlate, and holds {len(kept)}")
    seeds = len(np.unique(study.seed.values))

    def of(found: list[Choice]) -> float:
        x, y = [order(choice) for choice in found], [quantity(choice) for choice in found]
        return float(spearmanr(x, y)[0]) if len(set(x)) > 1 and len(set(y)) > 1 else 0.0

    drawn = []
    for _ in range(resamples):
        picked = rng.integers(0, seeds, seeds)
        drawn.append(of([table[i].choice(picked) for i in rng.integers(0, len(table), len(table))]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Correlation(of(kept), float(low), float(high), len(kept))
