"""Made-up studies of converged trainings whose answers are known, for what must break a claim: the columns that stacked trainings
store, and no training."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from criticality.studies.training import Trainings, read_trainings

Answer = Callable[[float, float], float]
"""Of alpha and log J."""

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
SEEDS, RECORDS, WINDOWS = 3, 5, 20


def made_up(
    choices: Sequence[Mapping[str, Any]],
    *,
    name: str = "made_up",
    depth: int = 32,
    done: int | None = None,
    noise: float = 0.0005,
    seed: int = 0,
) -> xr.Dataset:
    """A study of choices ``dict(alpha, log_apjn, quality, log_stable)``; ``norm`` and ``sigma_w`` as well, if given.

    Accuracy is ``quality`` at rate 1e-3, a little less at others, and 0.1 above the largest stable rate.  Only the first ``done``
    choices are computed.
    """
    rng = np.random.default_rng(seed)
    rows = [(choice, place, rate) for place, choice in enumerate(choices) for rate in RATES]
    count, points = len(rows), depth + 1
    log_apjn = np.array([[choice["log_apjn"]] * SEEDS for choice, _, _ in rows])
    accuracy = np.array([[_accuracy(choice, rate)] * SEEDS for choice, _, rate in rows])
    accuracy = accuracy + noise * rng.standard_normal(accuracy.shape)
    series = np.zeros((count, SEEDS, RECORDS, points))
    values = {
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy - 0.01,
        "diverged": np.zeros((count, SEEDS)),
        "largest_spike": np.full((count, SEEDS), 0.3),
        "loss_series": np.full((count, SEEDS, WINDOWS), 0.5),
        "update_series": np.full((count, SEEDS, RECORDS), 0.02),
        "log_apjn_by_run": log_apjn,
        "log_apjn": log_apjn.mean(1),
        "log_apjn_series": np.broadcast_to(log_apjn[:, :, None, None], series.shape).copy(),
        "log_q_series": np.broadcast_to(np.linspace(0, 1, points), series.shape).copy(),
        "log_slope_series": series.copy(),
        "saturated_series": series.copy(),
        "correlation_series": series.copy(),
    }
    columns = {
        "norm": np.array([choice.get("norm", "dyt") for choice, _, _ in rows]),
        "alpha": np.array([choice.get("alpha", np.nan) for choice, _, _ in rows], dtype=float),
        "sigma_w": np.array([choice.get("sigma_w", 1.0 + 1e-3 * place) for choice, place, _ in rows]),
        "depth": np.full(count, float(depth)),
        "steps": np.full(count, 20.0),
        "learning_rate": np.array([rate for _, _, rate in rows]),
        "status": np.array(["done" if done is None or place < done else "open" for _, place, _ in rows]),
    }
    variables = {
        key: (("cell", *(f"{key}_{axis}" for axis in range(value.ndim - 1))), value) for key, value in values.items()
    }
    study = {"name": name, "grid": {"learning_rate": RATES}, "search": ""}
    coordinates = {key: ("cell", value) for key, value in columns.items()}
    return xr.Dataset(variables, coordinates, {"study": json.dumps(study)})


def _accuracy(choice: Mapping[str, Any], rate: float) -> float:
    if rate > 10 ** choice["log_stable"] * 1.01:
        return 0.1
    return float(choice["quality"] - 0.004 * abs(np.log10(rate / 1e-3)))


def factorial(
    quality: Answer,
    log_stable: Answer = lambda alpha, log_apjn: -2.0,
    alphas: Sequence[float] = (0.3, 0.6, 1.2, 2.4),
    targets: Sequence[float] = (1, 2, 4, 8, 16),
) -> list[dict[str, float]]:
    """Choices of alpha crossed with log J, with ``quality(alpha, log_apjn)`` and ``log_stable(alpha, log_apjn)``."""
    return [
        {"alpha": a, "log_apjn": float(t), "quality": quality(a, t), "log_stable": log_stable(a, t)}
        for a in alphas
        for t in targets
    ]


DEPTHS = {"factorial_32": 32, "families_32": 32, "factorial_16": 16, "factorial_64": 64, "long_32": 32, "vit_alpha": 12}
"""Of the studies on which the plan decides."""


def falls_with_log_apjn(alpha: float, log_apjn: float) -> float:
    """A quality of which every hypothesis of the plan is true."""
    return 0.9 - 0.01 * log_apjn


def stable_rates_fall(alpha: float, log_apjn: float) -> float:
    """The same of decimal logarithms of largest stable rates, at the rates there are."""
    return {1: -1.5, 2: -2.0, 4: -2.5, 8: -2.5, 16: -3.0}[int(log_apjn)]


def plan_in_which(
    quality: Answer = falls_with_log_apjn,
    log_stable: Answer = stable_rates_fall,
    other: Mapping[str, tuple[Answer, Answer]] | None = None,
    left_out: Collection[str] = (),
) -> dict[str, Trainings]:
    """All studies of the plan, complete, with the same answers everywhere but in the studies ``other``."""
    answers = {name: (other or {}).get(name, (quality, log_stable)) for name in DEPTHS if name not in left_out}
    return {
        name: read_trainings(made_up(factorial(*answers[name]), name=name, depth=depth, seed=place))
        for place, (name, depth) in enumerate(DEPTHS.items())
        if name in answers
    }


def made_up_plane(accuracy: Callable[[float, float], float]) -> xr.Dataset:
    """A plane of 6 x 6 points with two rates, ``accuracy(sigma_w, sigma_b)`` at the first and 0.1 at the second."""
    rows = [(w, b, rate) for rate in (0.03, 0.3) for w in np.linspace(0.8, 2.2, 6) for b in np.linspace(0, 1, 6)]
    score = np.array([[accuracy(w, b) if rate < 0.1 else 0.1] for w, b, rate in rows])
    columns = {
        name: np.array([row[i] for row in rows]) for i, name in enumerate(("sigma_w", "sigma_b", "learning_rate"))
    }
    count = len(rows)
    columns |= {
        "norm": np.full(count, "none"),
        "activation": np.full(count, "erf"),
        "mu": np.zeros(count),
        "depth": np.full(count, 50.0),
        "status": np.full(count, "done"),
    }
    both = {
        name: (("cell", "run"), score - off) for name, off in (("validation_accuracy", 0.0), ("test_accuracy", 0.01))
    }
    return xr.Dataset(both, {name: ("cell", values) for name, values in columns.items()})


def made_up_picture(accuracy: Callable[[float, float], float], alphas: Sequence[float] = (0.4, 0.6, 0.8)) -> xr.Dataset:
    """A study like ``vit_gain``: LayerNorm and DyT at two gains, three seeds around ``accuracy(alpha, gain)``.

    ``log J = 2 alpha gain``, LayerNorm's as of alpha 1; its alpha is nan.
    """
    rows = [(alpha, gain) for alpha in (np.nan, *alphas) for gain in (1.0, 1.8)]
    alpha, gain = np.array(rows).T
    mean = np.array([accuracy(*row) for row in rows])
    columns = {
        "norm": np.where(np.isnan(alpha), "ln", "dyt"),
        "alpha": alpha,
        "mlp_gain": gain,
        "depth": np.full(len(rows), 12.0),
        "learning_rate": np.full(len(rows), 1e-3),
        "warm_up": np.full(len(rows), 150.0),
        "status": np.full(len(rows), "done"),
    }
    values = {
        "test_accuracy": (("cell", "run"), mean[:, None] + 0.001 * np.array([-1.0, 0.0, 1.0])),
        "log_apjn": ("cell", 2 * np.nan_to_num(alpha, nan=1.0) * gain),
    }
    return xr.Dataset(values, {name: ("cell", value) for name, value in columns.items()})
