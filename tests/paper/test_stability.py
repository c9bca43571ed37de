"""What is read off a study of trainings, on made-up trainings whose answer is known."""

import numpy as np
import pytest
import xarray as xr
from first_steps import made_up

from stability import choices, correlation, difference


def test_largest_stable_rates():
    found = choices(made_up(lambda log_apjn: 0.2 if log_apjn < 2.1 else 2e-3))
    assert [choice.largest_stable for choice in found] == pytest.approx([0.1] * 4 + [1e-3] * 6)
    assert found[0].label == "dyt 0.25"
    assert found[0].best_score == pytest.approx(0.9)
    assert found[0].sensitivity == pytest.approx(1.3 / 5)  # of five rates one is at the constant prediction's loss
    never = choices(made_up(lambda log_apjn: 0.0))
    assert {choice.largest_stable for choice in never} == {1e-5}  # a step below the smallest


def test_a_run_that_diverged_or_learned_too_little_does_not_train():
    data = made_up(lambda log_apjn: 1.0)
    data["diverged"][:] = 1
    assert {choice.largest_stable for choice in choices(data)} == {1e-5}
    data = made_up(lambda log_apjn: 1.0)
    data["last_loss"][:] = 2.3 - 0.04
    assert {choice.largest_stable for choice in choices(data)} == {1e-5}


def test_differences():
    data = made_up(lambda log_apjn: 0.2 if log_apjn < 2.1 else 2e-3)
    found = difference(
        data, lambda c: np.log10(c.largest_stable), lambda c: c.log_apjn < 2.1, lambda c: c.log_apjn > 2.1
    )
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="both kinds"):
        difference(data, lambda c: c.best_score, lambda c: c.label == "ln", lambda c: True)


def test_correlations_see_what_is_there_and_only_that():
    falls = correlation(made_up(lambda log_apjn: 10 ** (1 - log_apjn)), lambda c: c.largest_stable)
    assert falls.value < -0.9
    assert falls.high < 0
    rises = correlation(made_up(lambda log_apjn: 10 ** (log_apjn - 5)), lambda c: c.largest_stable)
    assert rises.low > 0
    same = correlation(made_up(lambda log_apjn: 0.05), lambda c: c.largest_stable)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="at least four choices"):
        correlation(made_up(lambda log_apjn: 0.05), lambda c: c.largest_stable, keep=lambda c: c.log_apjn < 1)
    with pytest.raises(ValueError, match="must be one of trainings"):
        choices(xr.Dataset())
