"""Made-up studies of trainings whose answers are known."""

import math

import numpy as np
import xarray as xr

NAMES = (
    "norm",
    "alpha",
    "prescription",
    "depth",
    "learning_rate",
    "seed",
    "log_apjn",
    "last_constant_loss",
    "last_loss",
    "score",
)


def made_up(limit, score=lambda log_apjn: 0.9, layer_norm=None):
    """Runs that train up to the learning rate ``limit(log_apjn)`` and then score ``score(log_apjn)``.

    Ten alphas, five rates and three seeds; with ``layer_norm``, LayerNorm too, which trains up to that rate.
    """
    choices = [("dyt", alpha, 2 * alpha, limit(2 * alpha)) for alpha in np.linspace(0.25, 2.5, 10)]
    if layer_norm is not None:
        choices.append(("ln", math.nan, 2.0, layer_norm))
    rows = []
    for norm, alpha, log_apjn, largest in choices:
        for rate in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            for seed in range(3):
                loss, reached = (1.0, score(log_apjn)) if rate <= largest else (2.3, 0.1)
                rows.append((norm, alpha, "", 12, rate, seed, log_apjn, 2.3, loss, reached))
    columns = {name: ("cell", np.array([row[i] for row in rows])) for i, name in enumerate(NAMES)}
    columns["status"] = ("cell", np.full(len(rows), "done"))
    columns["diverged"] = ("cell", np.zeros(len(rows)))
    columns["step_seconds"] = ("cell", np.ones(len(rows)))
    return xr.Dataset(columns).set_coords(["norm", "alpha", "prescription", "depth", "learning_rate", "seed", "status"])
