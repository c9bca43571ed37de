"""What is read off the source's pictures, on made-up ones, and that the studies of the plan are the pictures' cells."""

from pathlib import Path

import numpy as np

from criticality.sweeps import read_study
from made_up import made_up_picture
from pictures import _USUAL, PICTURES, STUDIES, draw_pictures, read_picture, table_of_readings

FOLDER = Path(__file__).parents[2] / "docs" / "studies" / "training"
DEPTHS, GAINS = (next(one for one in PICTURES if one.axis == axis) for axis in ("depth", "mlp_gain"))
SETTINGS = ("depth", "learning_rate", "mlp_gain", "steps", "warm_up")


def smaller_is_better(alpha, gain):
    return 0.8 - 0.1 * np.nan_to_num(alpha, nan=1.0) * gain


def layer_norm_is_best(alpha, gain):
    return 0.9 if np.isnan(alpha) else smaller_is_better(alpha, gain)


def test_where_the_smaller_log_j_ends_higher():
    holds = read_picture([made_up_picture(smaller_is_better)], GAINS)
    assert holds.pairs(lambda a, b: not (a or b)) == (6, 6)
    assert holds.pairs(lambda a, b: a != b) == (6, 6)
    assert holds.best_alphas() == [(1.0, 0.4), (1.8, 0.4)]
    fails = read_picture([made_up_picture(layer_norm_is_best)], GAINS)
    assert fails.pairs(lambda a, b: not (a or b)) == (6, 6)
    assert fails.pairs(lambda a, b: a != b) == (0, 6)  # LayerNorm's log J is above those of all of its column
    same = read_picture([made_up_picture(lambda alpha, gain: 0.5)], GAINS)
    assert same.pairs(lambda a, b: True) == (0, 0)


def test_a_part_of_a_picture():
    data = made_up_picture(layer_norm_is_best)
    data.status.values[3] = "open"  # DyT 0.4 at the second gain
    part = read_picture([data], GAINS)
    assert part.trained == 7
    assert part.labels == ["LayerNorm", "DyT 0.4", "DyT 0.6", "DyT 0.8"]
    assert np.isnan(part.mean[1, 1])
    assert part.best_alphas() == [(1.0, 0.4)]
    assert table_of_readings([part])[2].split(" | ")[1:] == ["7 of 20", "4 of 4 pairs", "0 of 5 pairs", "1: 0.4 |"]
    assert len(draw_pictures([part]).axes[0].texts) == 7
    shared = read_picture([data], DEPTHS)  # the first gain is its first column
    assert np.isfinite(shared.mean).sum(0).tolist() == [4, 0, 0]


def test_every_cell_of_the_pictures_is_in_a_study():
    """At the settings that the pictures ask for: no study is missing, and none trains what no picture shows."""
    wanted = {
        (norm, alpha, *((name, value if name == asked.axis else asked.held[name]) for name in SETTINGS))
        for asked in PICTURES
        for norm, alpha in [("ln", None), *(("dyt", alpha) for alpha in asked.alphas)]
        for value in asked.columns
    }
    trained = {
        (cell["norm"], cell.get("alpha"), *((name, {**_USUAL, **cell}[name]) for name in SETTINGS))
        for study in STUDIES
        for cell in read_study(FOLDER / f"{study}.yaml").cells()
    }
    assert trained == wanted
