"""What the article keeps can be read."""

import numpy as np
import pytest

from criticality.studies.endings import endings
from criticality.studies.predictors import Predictors
from kept import FIRST_STEPS, kept_study, kept_trainings
from stability import choices


def test_what_is_kept_can_be_read():
    for trainings in kept_trainings().values():
        predictors = Predictors(trainings)
        for choice in trainings.begun:
            assert 0.05 < choice.result().quality < 1
            found = predictors.read(choice, range(choice.seeds))
            assert np.isfinite(found["log_apjn"])
            assert found["near_layer_norm"] > -0.3 or choice.settings["norm"] != "ln"
        assert set(endings(trainings.data).ravel()) <= {"", "diverged", "dead", "chaotic", "idle", "slow", "settled"}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_the_study_of_the_first_steps_can_be_read(name):
    found = choices(kept_study(name))
    assert len(found) >= 4
    assert all(1e-6 < choice.largest_stable < 10 for choice in found)


def test_other_studies_are_refused():
    with pytest.raises(ValueError, match="study 'nope' must be one of 'stability'"):
        kept_study("nope")
