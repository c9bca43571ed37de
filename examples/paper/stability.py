"""What the study of the first 150 steps says: largest stable learning rates, score, and rank correlations with log J."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from criticality.errors import ArgumentError
from criticality.studies.association import Estimate

MARGIN = 0.05
"""Nats. A run trains when its last ten losses average below those of the best constant prediction on the same batches by this
much, and it did not diverge. Networks that are pushed too far mostly do not diverge: they fall back to predicting a constant."""

_COLUMNS = (
    "last_loss",
    "last_constant_loss",
    "score",
    "diverged",
    "step_seconds",
    "log_apjn",
    "learning_rate",
    "seed",
    "depth",
)


@dataclass(frozen=True)
class Choice:
    """One norm with its alpha or prescription, at one depth, over learning rates and seeds.

    Attributes:
        label, depth: what it is: ``ln``, ``dyt 0.5``, ``derf schedule``.
        log_apjn: at initialization, mean over seeds.
        largest_stable: learning rate, geometric mean over seeds of the largest at which the seed trains (``MARGIN``); a seed that
            trains at none counts as one step below the smallest.
        best_score: largest over learning rates of the median score over seeds.
        best_rate: where that is.
        sensitivity: mean over rates of the excess of the final loss, at most that of the constant prediction, over the best rate's,
            in nats; median over seeds (Wortsman et al. 2023).
        step_seconds: median time of a step.
    """

    label: str
    depth: int
    log_apjn: float
    largest_stable: float
    best_score: float
    best_rate: float
    sensitivity: float
    step_seconds: float

    @property
    def pointwise(self) -> bool:
        """Whether the norm is a pointwise function."""
        return self.label.split()[0] not in ("ln", "rms", "none")


@dataclass(frozen=True)
class Runs:
    """All runs of one choice, as ``(rates, seeds)``."""

    label: str
    depth: int
    log_apjn: float
    step_seconds: float
    rates: np.ndarray
    trains: np.ndarray
    score: np.ndarray
    excess: np.ndarray

    def choice(self, seeds: Sequence[int] | np.ndarray | None = None) -> Choice:
        """Over all seeds, or those picked."""
        picked = np.arange(self.trains.shape[1]) if seeds is None else np.asarray(seeds)
        stable = 10 ** float(np.mean(self._log_stable[picked]))
        medians = np.median(self.score[:, picked], axis=1)
        best = int(np.argmax(medians))
        excess = np.minimum(self.excess[:, picked], 0.0)
        sensitivity = float(np.median(np.mean(excess, axis=0) - np.min(excess, axis=0)))
        return Choice(
            self.label,
            self.depth,
            self.log_apjn,
            stable,
            float(medians[best]),
            float(self.rates[best]),
            sensitivity,
            self.step_seconds,
        )

    @property
    def learns(self) -> bool:
        """Whether most seeds train at one rate at least."""
        return bool(np.any(np.mean(self.trains, axis=1) > 0.5))

    @cached_property
    def _log_stable(self) -> np.ndarray:
        logs = np.log10(self.rates)
        below = logs[0] - (logs[-1] - logs[0]) / max(1, len(logs) - 1)
        return np.array([logs[np.flatnonzero(t)[-1]] if t.any() else below for t in self.trains.T])


def choices(study: xr.Dataset) -> list[Choice]:
    """Every choice of a store of trainings (``Store.dataset``).

    Raises:
        ValueError: a dataset that is not one of trainings.
    """
    return [runs.choice() for runs in runs_of(study)]


def runs_of(study: xr.Dataset) -> list[Runs]:
    """The runs of every choice; one that failed has not trained.

    Raises:
        ValueError: a dataset that is not one of trainings.
    """
    missing = [name for name in (*_COLUMNS, "status", "norm") if name not in study]
    if missing:
        raise ArgumentError(f"study must be one of trainings, and lacks {', '.join(missing)}")
    done = np.flatnonzero(study.status.values == "done")
    labels = label_of_cells(study)[done]
    column = {name: study[name].values[done] for name in _COLUMNS}
    rates, seeds = np.unique(column["learning_rate"]), np.unique(column["seed"])
    excess = excess_of_cells(study)[done]
    found = []
    for label, depth in dict.fromkeys(zip(labels.tolist(), column["depth"].astype(int).tolist(), strict=True)):
        mine = (labels == label) & (column["depth"] == depth)
        table = {
            "score": np.full((len(rates), len(seeds)), -np.inf),
            "excess": np.full((len(rates), len(seeds)), np.inf),
        }
        place = np.searchsorted(rates, column["learning_rate"][mine]), np.searchsorted(seeds, column["seed"][mine])
        table["score"][place], table["excess"][place] = column["score"][mine], excess[mine]
        means = float(np.mean(column["log_apjn"][mine])), float(np.median(column["step_seconds"][mine]))
        trains = table["excess"] < -MARGIN
        found.append(Runs(label, depth, *means, rates, trains, table["score"], table["excess"]))
    return found


def excess_of_cells(study: xr.Dataset) -> np.ndarray:
    """Nats of every cell's final loss above the constant prediction's, infinite where it diverged; it trains below ``-MARGIN``."""
    return np.where(study.diverged.values == 0, (study.last_loss - study.last_constant_loss).values, np.inf)


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


def bootstrap(
    runs: Sequence[Runs],
    statistic: Callable[[list[Choice]], float],
    *,
    resample_choices: bool = False,
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """A number read off the choices, with its interval from resampled seeds and, if asked for, resampled choices."""
    rng = np.random.default_rng(seed)
    seeds = runs[0].trains.shape[1]
    drawn = []
    for _ in range(resamples):
        picked = rng.integers(0, seeds, seeds)
        places = rng.integers(0, len(runs), len(runs)) if resample_choices else np.arange(len(runs))
        drawn.append(statistic([runs[i].choice(picked) for i in places]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(statistic([run.choice() for run in runs]), float(low), float(high), len(runs))


def correlation(
    study: xr.Dataset,
    quantity: Callable[[Choice], float],
    *,
    keep: Callable[[Choice], bool] = lambda choice: True,
    order: Callable[[Choice], float] = lambda choice: choice.log_apjn,
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """Spearman's, of ``log J`` at initialization, or another ``order``, and a quantity of the choices, over all that are kept.

    Raises:
        ValueError: fewer than four choices.
    """
    kept = [runs for runs in runs_of(study) if keep(runs.choice())]
    if len(kept) < 4:
        raise ArgumentError(f"study must hold at least four choices to correlate, and holds {len(kept)}")

    def of(found: list[Choice]) -> float:
        x, y = [order(choice) for choice in found], [quantity(choice) for choice in found]
        return float(spearmanr(x, y)[0]) if len(set(x)) > 1 and len(set(y)) > 1 else 0.0

    return bootstrap(kept, of, resample_choices=True, resamples=resamples, seed=seed)


def difference(
    study: xr.Dataset,
    quantity: Callable[[Choice], float],
    chosen: Callable[[Choice], bool],
    others: Callable[[Choice], bool],
    *,
    best: Callable[[Sequence[float]], float] = max,
    resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """The best of ``chosen`` over the best of ``others``, a difference; the interval is over seeds, the same for both.

    Raises:
        ValueError: where one of them is empty.
    """
    kept = [runs for runs in runs_of(study) if chosen(runs.choice()) or others(runs.choice())]
    if not any(chosen(r.choice()) for r in kept) or not any(others(r.choice()) for r in kept):
        raise ArgumentError("study must hold choices of both kinds that are to be compared")

    def of(found: list[Choice]) -> float:
        return best([quantity(c) for c in found if chosen(c)]) - best([quantity(c) for c in found if others(c)])

    return bootstrap(kept, of, resamples=resamples, seed=seed)
