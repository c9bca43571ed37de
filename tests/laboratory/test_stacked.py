"""Trainings of the recursion, on made-up images of the right size."""

import math

import numpy as np
import pytest
import torch

from criticality.laboratory.data import VALIDATION, fashion_mnist
from criticality.laboratory.residual_run import ResidualRun
from criticality.laboratory.stacked import evaluate, train_stacked
from criticality.sweeps.compute import compute_cell

SMALL = {"depth": 3, "width": 16, "steps": 30, "batch": 16, "seeds": 2}


def test_the_data_are_read_and_split(fashion_root):
    data = fashion_mnist(fashion_root)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [400, VALIDATION, 300]
    assert float(data.train.pixels.max()) <= 1.0
    standard = data.standardized(data.train)
    assert (float(standard.mean()), float(standard.std())) == pytest.approx((0.0, 1.0), abs=1e-4)


def test_missing_and_broken_files_are_said(fashion_root, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"must hold train-images-idx3-ubyte.*apt install dataset-fashion-mnist.*--data-root"
    ):
        fashion_mnist(tmp_path)
    monkeypatch.setenv("CRITICALITY_DATA_ROOT", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"other' must hold"):
        fashion_mnist()
    for name in (path.name.removesuffix(".gz") for path in fashion_root.iterdir()):
        (tmp_path / name).write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    with pytest.raises(ValueError, match="must be an idx file of unsigned bytes: it holds 3 bytes"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize("task", ["fashion-resnet", "fashion-mlp"])
def test_runs_learn_and_depend_on_their_seed_alone(fashion_root, task):
    kinds = {"fashion-resnet": {"norm": "dyt", "alpha": 0.5, "learning_rate": 0.01}}
    kind = kinds.get(task, {"norm": "ln", "activation": "erf", "optimizer": "sgd", "learning_rate": 0.5})
    both = train_stacked(ResidualRun(task=task, **kind, **SMALL), data_root=fashion_root)
    assert (both.last_loss < both.first_loss - 0.5).all()
    assert (both.test_accuracy > 0.4).all()
    alone = train_stacked(ResidualRun(task=task, **kind, **{**SMALL, "seeds": 1}, first_seed=1), data_root=fashion_root)
    np.testing.assert_allclose(alone.loss[0], both.loss[1], rtol=2e-3)
    np.testing.assert_allclose(alone.log_apjn[0, 0], both.log_apjn[1, 0], atol=1e-4)
    assert both.record.values.tolist() == [0, 1, 3, 10, 30]


def test_a_run_that_diverges_is_a_result_and_leaves_its_neighbours(fashion_root):
    run = ResidualRun(norm="rms", learning_rate=1e-3, **SMALL)
    stack = run.stack()
    stack.p["weight"][:, 0] = math.nan
    data = fashion_mnist(fashion_root)
    loss, accuracy = evaluate(stack, data.standardized(data.test), data.test.labels)
    assert math.isnan(loss[0])
    assert accuracy[0] == pytest.approx(0.1)
    assert np.isfinite(loss[1])
    burst = ResidualRun(
        task="fashion-mlp", norm="none", activation="relu", optimizer="sgd", learning_rate=1e24, **SMALL
    )
    found = train_stacked(burst, data_root=fashion_root)
    assert found.diverged.values.all()
    assert (found.diverged_at >= 0).all()
    np.testing.assert_allclose(found.test_accuracy, 0.1)
    assert np.isnan(found.loss.values[:, -1]).all()


def test_updates_are_those_of_the_first_step(fashion_root):
    """Adam's first step moves every weight by the rate."""
    run = ResidualRun(norm="ln", learning_rate=1e-3, weight_decay=0.0, **SMALL)
    found = train_stacked(run, data_root=fashion_root)
    weights = run.stack().p["weight"]
    expected = 1e-3 * math.sqrt(weights[:, 0].numel()) / float(weights[:, 0].norm())
    assert float(found["update"][0, 0]) == pytest.approx(expected, rel=1e-2)
    assert (found.stream_change[:, 0] > 0).all()
    assert np.isnan(found["update"].values[:, -1]).all()  # after the last step nothing moves


def test_a_schedule_keeps_alpha_times_the_root_of_the_kernel(fashion_root):
    run = ResidualRun(norm="dyt", alpha=0.8, schedule=True, depth=6, width=400, steps=1, batch=1, seeds=1)
    q = np.exp(train_stacked(run, data_root=fashion_root).log_q.values[0, 0])
    alphas = np.array(run.alphas())
    assert (alphas[1:] < alphas[:-1]).all()
    np.testing.assert_allclose(alphas**2 * q, 0.64, rtol=0.12)


def test_small_numbers_are_again_what_they_were(fashion_root):
    """Denormals are flushed while a run trains, as dead units make many; other code of the process needs them."""
    train_stacked(ResidualRun(task="fashion-resnet", norm="ln", **SMALL), data_root=fashion_root)
    small = float(torch.full((1,), 1e-310, dtype=torch.float64) * 1.0)
    assert str(small) == "1e-310"  # while denormals are flushed, 1e-310 == 0.0


def test_rates():
    run = ResidualRun(norm="ln", learning_rate=1.0, warm_up=4, steps=100)
    assert [run.rate_at(step) for step in (0, 1, 50)] == pytest.approx([0.25, 0.49988, 0.5], rel=1e-3)
    assert ResidualRun(norm="ln", learning_rate=1.0, decay="constant").rate_at(1499) == 1.0


def test_what_a_study_keeps(fashion_root, monkeypatch):
    monkeypatch.setenv("CRITICALITY_DATA_ROOT", str(fashion_root))
    cell = {"task": "fashion-resnet", "norm": "ln", "learning_rate": 0.01, **SMALL}
    found = compute_cell("train", cell, None)
    values = found.values
    assert (found.status, found.message) == ("done", "")
    assert values["log_apjn_series"].dtype == np.float16
    assert values["log_apjn_series"].shape == (2, 5, 4)
    assert values["validation_accuracy"].shape == (2,)
    assert values["score"] == pytest.approx(values["test_accuracy"].mean())
    found = compute_cell("train", {**cell, "norm": "dyt"}, None)
    assert (found.status, found.values) == ("failed", {})
    assert found.message == "ArgumentError: alpha=None must be a number with norm='dyt'"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "x", "norm": "ln"}, "task='x' must be one of"),
        ({"norm": "x"}, "norm='x' must be one of"),
        ({"norm": "ln", "alpha": 1.0}, "must be left out with 'ln'"),
        ({"norm": "dyt", "alpha": 0.0}, "alpha=0.0 of ResidualRun must be a finite number above 0"),
        ({"norm": "dyt", "alpha": 1.0, "activation": "relu"}, "activation='relu' must be ''"),
        ({"norm": "ln", "sigma_w": -1.0}, "sigma_w=-1.0 of ResidualRun must be"),
        ({"norm": "ln", "seeds": 0}, "seeds=0 of ResidualRun must be a whole number"),
        ({"norm": "ln", "decay": "x"}, "decay='x' of ResidualRun must be one of"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ResidualRun(**settings)
