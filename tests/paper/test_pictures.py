"""What is read off the source's pictures, on made-up ones."""

import numpy as np
import pytest
import xarray as xr

from made_up import made_up_picture
from pictures import draw_pictures, read_pictures, table_of_readings


def smaller_is_better(alpha, gain):
    return 0.8 - 0.1 * np.nan_to_num(alpha, nan=1.0) * gain


def layer_norm_is_best(alpha, gain):
    return 0.9 if np.isnan(alpha) else smaller_is_better(alpha, gain)


def test_where_the_smaller_log_j_ends_higher():
    (holds,) = read_pictures(made_up_picture(smaller_is_better), "vit_gain")
    assert holds.pairs(lambda a, b: not (a or b)) == (6, 6)
    assert holds.pairs(lambda a, b: a != b) == (6, 6)
    assert holds.best_alphas() == [(1.0, 0.3), (2.0, 0.3)]
    (fails,) = read_pictures(made_up_picture(layer_norm_is_best), "vit_gain")
    assert fails.pairs(lambda a, b: not (a or b)) == (6, 6)
    assert fails.pairs(lambda a, b: a != b) == (2, 6)  # LayerNorm's log J is above those of alpha 0.3 and 0.6
    same = read_pictures(made_up_picture(lambda alpha, gain: 0.5), "vit_gain")[0]
    assert same.pairs(lambda a, b: True) == (0, 0)


def test_a_part_of_a_picture():
    data = made_up_picture(layer_norm_is_best)
    data.status.values[3] = "open"  # DyT 0.3 at gain 2
    (part,) = read_pictures(data, "vit_gain")
    assert part.trained == 7
    assert part.labels == ["LayerNorm", "DyT 0.3", "DyT 0.6", "DyT 1.2"]
    assert np.isnan(part.mean[1, 1])
    assert part.pairs(lambda a, b: a != b) == (2, 5)
    assert part.best_alphas() == [(1.0, 0.3)]
    assert table_of_readings([part])[2].split(" | ")[1:] == ["7 of 8", "4 of 4 pairs", "2 of 5 pairs", "1: 0.3 |"]
    assert len(draw_pictures([part]).axes[0].texts) == 7
    with pytest.raises(ValueError, match="'vit_alpha' must be one of"):
        read_pictures(xr.Dataset(), "vit_alpha")
