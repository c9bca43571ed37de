"""A task of the laboratory with several seeds in a cell is read as the stacked ones are."""

import numpy as np
import pytest

from criticality.studies.endings import endings
from criticality.studies.predictors import Predictors
from criticality.studies.training import read_trainings
from criticality.sweeps.run import run_study
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study


def test_a_study_of_the_vit_is_read_as_the_stacked_ones(tmp_path, fashion_root, monkeypatch):
    monkeypatch.setenv("CRITICALITY_DATA_ROOT", str(fashion_root))
    fixed = {"task": "fashion-vit", "depth": 1, "width": 32, "steps": 20, "batch": 16, "seeds": 2, "every": 20}
    cases = ({"norm": "ln"}, {"norm": "dyt", "alpha": 0.5}, {"norm": "none"})
    study = Study("vit", "train", {"learning_rate": [1e-3, 1e6]}, fixed, cases)
    report = run_study(study, tmp_path / "vit.zarr", workers=0)
    data = Store(tmp_path / "vit.zarr").dataset()
    assert report.counts["done"] == 6, Store(tmp_path / "vit.zarr").messages()
    trainings = read_trainings(data)
    assert [choice.label for choice in trainings.choices] == ["ln", "dyt 0.5", "none"]
    result = trainings.choices[1].result()
    assert result.best_rate == 1e-3
    assert 0.1 < result.quality < 0.9
    assert endings(data)[5].tolist() == ["diverged", "diverged"]  # no norm at an absurd rate
    assert trainings.choices[2].result().diverged == 0.5
    predictors = Predictors(trainings)
    found = predictors.read(trainings.choices[1], [0, 1])
    assert found["log_apjn"] == pytest.approx(float(data.log_apjn[2]))
    assert found["log_alpha"] == pytest.approx(np.log(0.5))
    assert 0 < found["mean_slope"] < 1
    assert np.isnan(predictors.read(trainings.choices[0], [0, 1])["log_alpha"])
