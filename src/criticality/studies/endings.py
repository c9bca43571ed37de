"""How runs end: diverged, dead, chaotic, idle, slow or settled, read off what each stored."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = [
    "CHAOTIC",
    "ENDINGS",
    "SLOW",
    "endings",
]

ENDINGS = ("diverged", "dead", "chaotic", "idle", "slow", "settled")
"""In the order in which they are asked for; a run is the first that fits. Limits are those of docs/studies/plan.md."""

DEAD_SLOPE, DEAD_SATURATED, DEAD_LAYERS = 0.05, 0.9, 0.5
CHAOTIC = 8.0
IDLE_UPDATE, IDLE_ACCURACY = 0.01, 0.2
SLOW = 0.02


def endings(data: xr.Dataset) -> np.ndarray:
    """Of every run of a study of stacked trainings, ``(cells, seeds)``; empty text where a cell is not done.

    *diverged*: a loss that is not finite, or a last loss above 1.5 log 10.  *dead*: at the end ``E phi'^2/phi'(0)^2`` is below
    0.05, or more than 90 per cent of units are saturated, in half of the layers.  *chaotic*: log J(0 -> L) above 8 at the end.
    *idle*:
    no recorded step changed the weights by 1 per cent, and the validation accuracy is below 0.2.  *slow*: the mean loss of the last
    tenth of the steps is more than 2 per cent below that of the tenth before.  *settled*: none of these.
    """
    last_slope, last_saturated = (data[f"{name}_series"].values[:, :, -1].astype(float) for name in _AT_END)
    shut = (last_slope < np.log(DEAD_SLOPE)) | (last_saturated > DEAD_SATURATED)
    update = data["update_series"].values[:, :, :-1]
    windows = data["loss_series"].values.astype(float)
    tenth = max(1, windows.shape[-1] // 10)
    last, before = windows[..., -tenth:].mean(-1), windows[..., -2 * tenth : -tenth].mean(-1)
    with np.errstate(invalid="ignore"):
        tests = {
            "diverged": data["diverged"].values > 0,
            "dead": shut.mean(-1) >= DEAD_LAYERS,
            "chaotic": data["log_apjn_series"].values[:, :, -1, 0].astype(float) > CHAOTIC,
            "idle": (np.nanmax(np.nan_to_num(update), -1) < IDLE_UPDATE)
            & (data["validation_accuracy"].values < IDLE_ACCURACY),
            "slow": last < (1 - SLOW) * before,
        }
    found = np.full(data["diverged"].shape, "settled", dtype="<U8")
    for name in reversed(ENDINGS[:-1]):
        found[tests[name]] = name
    found[data.status.values != "done"] = ""
    return found


_AT_END = ("log_slope", "saturated")
