"""Runs of different rates, alphas and weights in one stack against each of them trained alone."""

import numpy as np
import pytest
import torch

from criticality.laboratory.residual_run import ResidualRun
from criticality.laboratory.stacked import train_stacked, train_together
from criticality.laboratory.stacked_vit import VitStack, diverges_at, start_of, train_vits
from criticality.laboratory.steps import RateByRun, corrections_at
from criticality.laboratory.tasks import task
from criticality.laboratory.train import Run, initial_model, train
from criticality.measurement import measure

SMALL = {"depth": 3, "width": 16, "steps": 31, "batch": 16, "seeds": 2}


@pytest.mark.parametrize(
    "runs",
    [
        [
            ResidualRun(norm="derf", alpha=0.5, learning_rate=3e-3, sigma_w=0.7, sigma_b=0.3, **SMALL),
            ResidualRun(
                norm="derf", alpha=2.0, schedule=True, learning_rate=1e-2, decay="constant", warm_up=5, **SMALL
            ),
        ],
        [
            ResidualRun(task="fashion-mlp", norm="ln", activation="erf", optimizer="sgd", learning_rate=0.1, **SMALL),
            ResidualRun(
                task="fashion-mlp",
                norm="ln",
                activation="erf",
                optimizer="sgd",
                learning_rate=0.5,
                sigma_w=2.0,
                **SMALL,
            ),
        ],
    ],
)
def test_a_run_does_together_what_it_does_alone(fashion_root, runs):
    found = train_together(runs, data_root=fashion_root)
    for run, together in zip(runs, found, strict=True):
        alone = train_stacked(run, data_root=fashion_root)
        assert set(together) == set(alone)
        for name in ("loss", "log_apjn", "log_q", "update", "gradient_norm", "validation_loss", "largest_spike"):
            np.testing.assert_allclose(together[name], alone[name], rtol=2e-3, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(together.test_accuracy, alone.test_accuracy, atol=0.02)


def test_what_cannot_be_in_one_stack_is_refused(fashion_root):
    with pytest.raises(
        ValueError, match="must agree in norm to be trained together, and have norm='ln' and norm='rms'"
    ):
        train_together([ResidualRun(norm="ln", **SMALL), ResidualRun(norm="rms", **SMALL)], data_root=fashion_root)
    with pytest.raises(ValueError, match="must agree in depth to be trained together, and have depth=12 and depth=13"):
        start_of([Run(task="fashion-vit", depth=12), Run(task="fashion-vit", depth=13)], fashion_root)
    with pytest.raises(ValueError, match="must be of fashion-vit in float32 by AdamW"):
        start_of([Run(task="fashion-vit", clip=1.0)], fashion_root)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_updates_are_torchs(optimizer):
    draw = torch.Generator().manual_seed(1)
    rates = [1e-3, 3e-2]
    ours = {"matrix": torch.randn(4, 2, 3, 5, generator=draw), "row": torch.randn(2, 1, 5, generator=draw)}
    gradients = {name: torch.zeros_like(p) for name, p in ours.items()}
    by_run = RateByRun(ours, gradients, {"matrix": 0.1}, optimizer, fused=False)
    alone = [
        {name: torch.nn.Parameter(p.select(-3, run).clone()) for name, p in ours.items()} for run in range(len(rates))
    ]
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizers = [
        kinds[optimizer](
            [
                {"params": [p["matrix"]], "weight_decay": 0.1 if optimizer == "adamw" else 0.0},
                {"params": [p["row"]], "weight_decay": 0.0},
            ],
            lr=rate,
        )
        for p, rate in zip(alone, rates, strict=True)
    ]
    for step in range(5):
        for g in gradients.values():
            g.copy_(torch.randn(g.shape, generator=draw))
        by_run.step(torch.tensor(rates), torch.tensor(corrections_at(step)))
        for run, (parameters, torchs) in enumerate(zip(alone, optimizers, strict=True)):
            for name, p in parameters.items():
                p.grad = gradients[name].select(-3, run).clone()
            torchs.step()
    for run, parameters in enumerate(alone):
        for name, p in parameters.items():
            torch.testing.assert_close(ours[name].select(-3, run), p.detach(), rtol=1e-5, atol=1e-6)


VIT = {"task": "fashion-vit", "depth": 2, "width": 32, "steps": 12, "batch": 8, "weight_decay": 0.05, "every": 12}


@pytest.mark.parametrize(("norm", "alpha"), [("ln", None), ("dyt", 0.7), ("derf", 0.4)])
def test_stacked_vits_are_timms(fashion_root, norm, alpha):
    runs = [
        Run(norm=norm, alpha=alpha, seed=1, learning_rate=1e-2, decay="cosine", warm_up=3, **VIT),
        Run(norm=norm, alpha=alpha and 2 * alpha, seed=2, mlp_gain=2.0, learning_rate=1e-3, **VIT),
    ]
    found = train_vits(runs, data_root=fashion_root)
    stack = VitStack(start_of(runs, fashion_root), torch.device("cpu"))
    x = torch.randn(64, 784, generator=torch.Generator().manual_seed(3))
    for place, run in enumerate(runs):
        model = initial_model(run, task("fashion-vit", fashion_root)).eval()
        torch.testing.assert_close(
            stack.logits(x.expand(2, -1, -1))[place], model(x.view(-1, 1, 28, 28)), rtol=1e-4, atol=1e-4
        )
        alone = train(run, data_root=fashion_root)
        losses = np.append(alone.loss.values, np.full(8, np.nan)).reshape(2, 10)
        np.testing.assert_allclose(found["loss_series"][place, 0], losses[0].mean(), rtol=2e-3)
        np.testing.assert_allclose(found["update_series"][place], alone.recorded_update, rtol=2e-2)
        assert found["test_accuracy"][place] == pytest.approx(float(alone.test_score), abs=0.02)
        assert found["validation_accuracy"][place] == pytest.approx(float(alone.score), abs=0.02)
        for name in ("log_q", "log_slope", "saturated", "attention_entropy", "correlation"):
            if f"recorded_{name}" in alone:  # of four other images than the stack's
                theirs = alone[f"recorded_{name}"].values
                assert found[f"{name}_series"][place].shape == theirs.shape
                np.testing.assert_allclose(found[f"{name}_series"][place], theirs, atol=0.35, err_msg=name)


def test_profiles_of_a_stack_are_those_that_are_measured(fashion_root):
    from criticality.laboratory.data import fashion_mnist
    from criticality.laboratory.stacked_vit import PROBES, VitRecords

    runs = [Run(norm="dyt", alpha=0.7, seed=seed, **{**VIT, "depth": 4}) for seed in (1, 2)]
    data = fashion_mnist(fashion_root)
    shown = data.standardized(data.validation)[:PROBES]
    records = VitRecords(VitStack(start_of(runs, fashion_root), torch.device("cpu")), shown, [0])
    records.record(0)
    for place, run in enumerate(runs):
        model = initial_model(run, task("fashion-vit", fashion_root))
        measured = measure(model, shown.view(-1, 1, 28, 28), probes=2)
        error = float(np.max(measured.log_apjn_se)) if "log_apjn_se" in measured else 0.03
        np.testing.assert_allclose(
            records.series()["log_apjn_series"][place, 0], measured.log_apjn, atol=4 * error + 0.02
        )
        np.testing.assert_allclose(records.series()["log_q_series"][place, 0], np.log(measured.q), rtol=1e-4, atol=1e-5)


def test_when_a_run_diverges():
    losses = np.full(30, 2.0)
    assert diverges_at(losses) == -1
    assert diverges_at(np.where(np.arange(30) == 17, np.nan, losses)) == 17
    assert diverges_at(np.where(np.arange(30) >= 12, 4.0, losses)) == 17  # six of ten at 4 and four at 2 make 3.2 > 3
    assert diverges_at(np.array([2.0, np.inf])) == 1
