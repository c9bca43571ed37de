"""What is read off converged trainings, on made-up ones whose answers are known, and on what is kept."""

import numpy as np
import pytest
import xarray as xr

from criticality.studies.association import Table, correlation, held_out, partial_spearman, spearman, tabulate
from criticality.studies.endings import endings
from criticality.studies.predictors import Predictors, layer_norm_log_apjn
from criticality.studies.training import read_trainings
from criticality.theory import LayerNorm, SymmetricKernel, propagate, resnet
from made_up import factorial, made_up


def table_of(data):
    trainings = read_trainings(data)
    predictors = Predictors(trainings)

    def read(choice, seeds):
        result = choice.result(seeds)
        return predictors.read(choice, seeds) | {"quality": result.quality, "log_stable": result.log_stable}

    return tabulate(trainings.choices, read)


def test_quality_and_stability_of_a_choice():
    choice = {"alpha": 1.0, "log_apjn": 2.0, "quality": 0.9, "log_stable": -2.0}
    data = made_up([choice], noise=0.0)
    found = read_trainings(data).choices[0].result()
    assert found.quality == pytest.approx(0.89)  # of the test images
    assert (found.best_rate, found.log_stable) == pytest.approx((1e-3, -2.0))
    data["validation_accuracy"].values[4, 1] = 0.94 * 0.9  # one seed at 1e-2 is more than 5 per cent below
    data["test_accuracy"].values[3] = 0.99  # at a rate that is not the best on validation
    found = read_trainings(data).choices[0].result()
    assert found.log_stable == pytest.approx(np.log10(3e-3))
    assert found.quality == pytest.approx(0.89)
    assert read_trainings(data).choices[0].result([0, 0, 2]).log_stable == pytest.approx(-2.0)


def test_a_study_says_how_far_it_is_and_open_choices_are_not_read():
    data = made_up(factorial(lambda a, t: 0.8), done=7)
    data["status"].values[6 * 6 + 2] = "open"  # one rate of the seventh
    found = read_trainings(data)
    assert str(found.progress) == "41 of about 120 cells (6 of 20 choices)"
    assert (len(found.choices), len(found.begun), found.progress.complete) == (6, 7, False)
    assert read_trainings(made_up(factorial(lambda a, t: 0.8))).progress.complete
    with pytest.raises(ValueError, match="lacks validation_accuracy"):
        read_trainings(xr.Dataset())


def test_a_predictor_that_orders_perfectly_and_one_that_is_noise():
    table = table_of(made_up(factorial(lambda a, t: 0.9 - 0.01 * t), noise=0.0))
    perfect = correlation(table, "log_apjn", "quality")
    assert perfect.value == pytest.approx(-1.0)
    assert perfect.high < -0.9
    rng = np.random.default_rng(3)
    noise = correlation(table_of(made_up(factorial(lambda a, t: 0.8 + 0.05 * rng.random()))), "log_apjn", "quality")
    assert noise.low < 0 < noise.high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(200):
        whole = {name: rng.standard_normal(25) for name in "xy"}
        table = Table({name: values[:, None].repeat(2, 1) for name, values in whole.items()}, np.full(2, 0.5), whole)
        found = correlation(table, "x", "y", resamples=200)
        outside += not found.low <= 0 <= found.high
    assert 2 <= outside <= 24


def test_alpha_and_log_apjn_confounded_and_pulled_apart():
    by_alpha = factorial(lambda a, t: 0.9 - 0.02 * a)
    table = table_of(made_up(by_alpha, noise=1e-4))
    given_alpha = correlation(table, "log_apjn", "quality", "log_alpha")
    given_log_apjn = correlation(table, "log_alpha", "quality", "log_apjn")
    assert given_alpha.low < 0 < given_alpha.high
    assert given_log_apjn.high < -0.9
    both = [
        choice | {"log_apjn": 4 * choice["alpha"]} for choice in by_alpha
    ]  # as in the first pilot: one is the other
    table = table_of(made_up(both, noise=1e-4))
    assert correlation(table, "log_apjn", "quality").high < -0.9
    assert correlation(table, "log_apjn", "quality", "log_alpha").value == 0.0


def test_rank_correlations_are_scipys_with_ties():
    from scipy.stats import spearmanr

    x, y = np.array([1.0, 2, 2, 3, 5, 5]), np.array([2.0, 1, 4, 4, 9, 3])
    assert spearman(x, y) == pytest.approx(spearmanr(x, y)[0])
    assert spearman(np.ones(6), y) == 0.0
    rng = np.random.default_rng(0)
    z = rng.standard_normal(4000)
    a, b = z + 0.3 * rng.standard_normal(4000), z + 0.3 * rng.standard_normal(4000)
    assert spearman(a, b) > 0.8
    assert abs(partial_spearman(a, b, z)) < 0.05


def test_error_on_what_is_held_out():
    fitted = table_of(made_up(factorial(lambda a, t: 0.9 - 0.01 * t), noise=0.0))
    good = held_out(fitted, table_of(made_up(factorial(lambda a, t: 0.9 - 0.01 * t), depth=64)), "log_apjn", "quality")
    assert good.high < 0.1
    other = table_of(made_up(factorial(lambda a, t: 0.7 + 0.01 * t), depth=64))  # the other way round
    assert held_out(fitted, other, "log_apjn", "quality").low > 1


def test_layer_norm_is_in_the_correlations_but_not_where_alpha_is():
    choices = factorial(lambda a, t: 0.9 - 0.01 * t)
    norms = [{"norm": "ln", "sigma_w": s, "log_apjn": 3.0 + s, "quality": 0.95, "log_stable": 0.0} for s in (0.5, 1.0)]
    table = table_of(made_up(choices + norms))
    assert correlation(table, "log_apjn", "quality").choices == 22
    assert correlation(table, "log_alpha", "quality").choices == 20
    with pytest.raises(ValueError, match="known of 8 choices"):
        correlation(table_of(made_up(choices[:4])), "log_apjn", "quality")


def test_layer_norms_log_apjn_is_the_theorys():
    choice = read_trainings(made_up(factorial(lambda a, t: 0.8), depth=48)).choices[3]
    network = resnet(LayerNorm(), 48, float(choice.settings["sigma_w"]) ** 2)
    expected = propagate(network, SymmetricKernel.of(0.7)).log_apjn[0]
    assert layer_norm_log_apjn(choice, 1 / 0.7) == pytest.approx(float(expected), abs=1e-4)


def test_how_runs_end():
    data = made_up([{"alpha": 1.0, "log_apjn": 2.0, "quality": 0.9, "log_stable": -1.0}])
    assert set(endings(data).ravel()) == {"settled"}
    data["diverged"].values[0] = 1
    data["log_slope_series"].values[1, :, -1, :20] = np.log(0.04)  # more than half of the layers
    data["saturated_series"].values[2, 0, -1, :20] = 0.95
    data["log_apjn_series"].values[3, :, -1, 0] = 9
    data["update_series"].values[4], data["validation_accuracy"].values[4] = 1e-3, 0.15
    data["loss_series"].values[5, :, -2:] = 0.45
    assert [row[0] for row in endings(data)] == ["diverged", "dead", "dead", "chaotic", "idle", "slow"]
    assert endings(data)[2, 1] == "settled"
    data["log_slope_series"].values[1, :, -1, 15:] = 0  # less than half
    assert endings(data)[1, 0] == "settled"
