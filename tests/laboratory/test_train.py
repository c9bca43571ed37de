"""Trainings: deterministic, resumable to the bit, honest about divergence."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.laboratory.data import DATA_ROOT
from criticality.laboratory.tasks import task
from criticality.laboratory.train import Run, train
from criticality.prescription import prescribe
from criticality.schema import read_dataset

SMALL = {"depth": 2, "width": 32, "steps": 40, "batch": 16, "every": 20}


def test_the_same_seed_gives_the_same_losses_and_another_does_not():
    first, second, other = (train(Run(**SMALL, norm="dyt", alpha=0.5, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.loss, second.loss)
    np.testing.assert_array_equal(first.log_apjn, second.log_apjn)
    assert not np.array_equal(first.loss, other.loss)
    assert first.step.values.tolist() == [0, 20, 40]
    assert first.alpha.sizes == {"step": 3, "norm": 4}


def test_a_vit_learns_digits():
    result = train(Run(**{**SMALL, "batch": 64}, norm="ln", learning_rate=3e-3))
    assert float(result.loss[-5:].mean()) < float(result.loss[0]) - 0.3
    assert float(result.score) > 0.2
    assert result.constant_loss.values == pytest.approx(np.log(10), abs=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_goes_on_to_the_same_losses(tmp_path, optimizer):
    run, path = Run(**SMALL, norm="derf", optimizer=optimizer, learning_rate=3e-3), tmp_path / "state.pt"

    class StopError(Exception):
        pass

    def interrupt(step, loss):
        if step == 33:
            raise StopError

    with pytest.raises(StopError):
        train(run, checkpoint=path, checkpoint_every=10, progress=interrupt)
    resumed = train(run, checkpoint=path, checkpoint_every=10)
    whole = train(run)
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.gradient_norm, whole.gradient_norm)
    np.testing.assert_array_equal(resumed.log_apjn, whole.log_apjn)
    np.testing.assert_array_equal(resumed.alpha, whole.alpha)
    assert float(resumed.score) == float(whole.score)
    with pytest.raises(ValueError, match="must be of this run, but is of one with other learning_rate"):
        train(Run(**SMALL, norm="derf", optimizer=optimizer, learning_rate=1e-3), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="must be a whole checkpoint"):
        train(run, checkpoint=path)


def test_divergence_is_said():
    result = train(Run(**SMALL, norm="none", learning_rate=10.0))
    assert bool(result.diverged)
    assert 0 <= int(result.diverged_at) < 40


def test_prescriptions_are_set_before_training():
    run = Run(**SMALL, prescription="schedule", target=0.8)
    result = train(run)
    assert float(result.log_apjn_initial) == pytest.approx(0.8, abs=0.4)
    made = task("digits")
    import torch

    torch.manual_seed(0)
    model = made.build(2, 32)
    network, inputs = made.read(model, made.batch(16, torch.Generator().manual_seed(0)))
    assert prescribe(network, inputs, 0.8, "gain").log_apjn == pytest.approx(0.8, abs=0.011)


@pytest.mark.slow
def test_code_and_bfloat16():
    result = train(Run(task="code", norm="rms", **{**SMALL, "steps": 30}, dtype="bfloat16"))
    assert float(result.loss[-5:].mean()) < float(result.loss[0]) - 0.5
    assert -9 < float(result.score) < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "nope"}, "task='nope' must be one of"),
        ({"norm": "nope"}, "norm 'nope' is unknown"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"optimizer": "sgd"}, "optimizer='sgd' of Run must be"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 of Run must be"),
        ({"steps": 0}, "steps=0 of Run must be a whole number"),
        ({"dtype": "float16"}, "dtype='float16' of Run must be"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Run(**settings)


def test_command_line(tmp_path):
    command = ["train", "digits", "--depth", "2", "--width", "32", "--steps", "12", "--batch", "8", "--norm", "derf"]
    out = tmp_path / "run.nc"
    record = json.loads(CliRunner().invoke(main, [*command, "--json", "--out", str(out)]).stdout)
    assert record["diverged"] is False
    stored = read_dataset(out)
    assert stored.sizes["train_step"] == 12
    assert stored.attrs["norm"] == "derf"
    refused = CliRunner().invoke(main, [*command, "--alpha", "-1"])
    assert refused.exit_code == 2
    assert "alpha=-1.0" in refused.stderr


def test_the_published_recipe_sets_what_it_says():
    from criticality.laboratory.train import GPT_RECIPE, _optimizers, initial_model

    run = Run(**GPT_RECIPE, norm="dyt", alpha=0.2, alpha_attention=0.8, depth=2, width=32, warm_up=10, steps=100)
    model = initial_model(run, task(run.task))
    alphas = {name: float(m.alpha.detach()) for name, m in model.named_modules() if hasattr(m, "alpha")}
    assert {round(alpha, 6) for name, alpha in alphas.items() if name.endswith("ln_1")} == {0.8}
    assert {round(alpha, 6) for name, alpha in alphas.items() if not name.endswith("ln_1")} == {0.2}
    embedded = model.transformer.wte(torch.arange(256))
    assert float(embedded.detach().square().mean()) == pytest.approx(1.0, abs=0.1)
    assert float(model.transformer.wte.scale.detach()) == pytest.approx(32**0.5)
    groups = _optimizers(run, model)[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["betas"] == (0.9, 0.95)
    assert all(p.ndim <= 1 for p in groups[1]["params"])
    assert [run.rate_at(step) for step in (0, 100)] == pytest.approx([1e-4, 0.0])
    with pytest.raises(ValueError, match="must be left out for norm 'ln', which has none"):
        initial_model(Run(task="digits", norm="ln", alpha_attention=0.5, depth=1, width=32), task("digits"))
    with pytest.raises(ValueError, match="decay='linear' of Run must be"):
        Run(decay="linear")


def test_an_error_is_no_divergence_and_a_divergence_no_error(monkeypatch):
    from criticality.prescription.monitor import Monitor

    def broken(self, step):
        raise ValueError("something else")

    monkeypatch.setattr(Monitor, "record", lambda self, step: None if step == 0 else broken(self, step))
    with pytest.raises(ValueError, match="something else"):
        train(Run(**{**SMALL, "steps": 25}, norm="ln"))
    monkeypatch.undo()
    result = train(Run(**SMALL, norm="none", learning_rate=1e6))
    assert bool(result.diverged)


def test_diagnostics_at_geometric_steps():
    result = train(Run(**SMALL, norm="dyt", alpha=1.0, learning_rate=1e-3))
    assert result.record.values.tolist() == [0, 1, 3, 10, 30, 40]
    assert result.recorded_log_apjn.values[0] == pytest.approx(result.log_apjn.values[0], abs=1e-5)
    assert np.all(np.isfinite(result.slope))
    assert result.recorded_log_slope.shape == (6, 5)  # two norms in each block, and the last
    assert result.recorded_log_slope.values[0, :4] == pytest.approx(np.log(result.slope.values[0]), abs=1e-5)
    assert np.all((result.recorded_attention_entropy > 0.5) & (result.recorded_attention_entropy <= 1))
    assert np.all(result.recorded_update.values[:-1] > 0)
    assert np.isnan(result.recorded_update.values[-1])
    assert 1e-4 < result.recorded_update.values[0] < 1e-2  # Adam's first step is of signs
    assert np.all(np.abs(result.recorded_correlation) <= 1)


def test_attention_entropy():
    from criticality.laboratory.diagnostics import attention_entropy

    same = torch.zeros(1, 2, 5, 4)
    assert attention_entropy(same, same, same) == pytest.approx(1.0)
    assert attention_entropy(same, same, same, is_causal=True) == pytest.approx(1.0)
    one = 100 * torch.eye(5)[None, None]
    assert attention_entropy(one, one, one) == pytest.approx(0.0, abs=1e-6)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    assert attention_entropy(same, same, same, mask) == pytest.approx(1.0)


@pytest.mark.skipif(not DATA_ROOT.exists(), reason="FashionMNIST is not installed")
def test_a_vit_learns_fashion():
    run = Run(task="fashion-vit", norm="dyt", alpha=0.5, depth=2, width=32, steps=60, batch=32, learning_rate=3e-3)
    result = train(run, data_root=DATA_ROOT)
    assert float(result.loss[-10:].mean()) < float(result.loss[:5].mean()) - 0.3
    assert float(result.test_score) > 0.35
    with pytest.raises(ValueError, match="must hold train-images"):
        train(run, data_root="/nowhere")
