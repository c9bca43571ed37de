"""The monitor: training with it is training without it, and what it records is what it says."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from criticality.measurement import measure
from criticality.models import ResidualNetwork, ViTSpec, gaussian_inputs
from criticality.prescription import (
    CriticalityWarning,
    Monitor,
    lightning_callback,
    to_tensorboard,
    trainer_callback,
)
from criticality.schema import read_dataset


def vit(norm="dyt"):
    torch.manual_seed(0)
    return ViTSpec(
        "vit_tiny_patch16_224", norm=norm, alpha=1.0 if norm != "ln" else None, depth=3, width=64, image_size=32
    ).build()


def train(model, steps=12, monitor=None):
    """Losses of AdamW with dropout, data drawn from torch's global random state."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    model.train()
    for step in range(steps):
        images = torch.randn(8, 3, 32, 32)
        labels = torch.randint(0, 10, (8,))
        loss = nn.functional.cross_entropy(nn.functional.dropout(model(images), 0.1), labels)
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step)  # gradients are still there
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("norm", ["dyt", "ln"])
def test_training_is_the_same_bit_for_bit(norm):
    without, model = train(vit(norm)), vit(norm)
    monitor = Monitor(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)), every=3)
    assert train(model, monitor=monitor) == without
    assert monitor.dataset().sizes["step"] == 4
    assert model.training


def test_a_record_is_a_measurement(tmp_path):
    model, batch = vit(), torch.randn(2, 3, 32, 32)
    logged = []
    monitor = Monitor(
        model,
        batch,
        every=5,
        log=lambda scalars, step: logged.append((step, scalars)),
        path=tmp_path / "run.nc",
        seed=4,
    )
    assert [monitor.step(step) is not None for step in range(1, 6)] == [False] * 4 + [True]
    measured = measure(model, batch, seed=4)
    step, scalars = logged[0]
    assert (step, scalars["criticality/log_apjn"]) == (5, float(measured.log_apjn[0]))
    stored = read_dataset(tmp_path / "run.nc")
    np.testing.assert_array_equal(stored.log_apjn.values[0], measured.log_apjn.values)
    assert stored.norm.values.tolist()[:2] == ["blocks.0.norm1", "blocks.0.norm2"]
    assert stored.alpha.values.tolist() == [[1.0] * 6]
    assert stored.branch_share.shape == (1, 3)


def test_shares_and_slopes_by_hand():
    torch.manual_seed(0)
    model, x = ResidualNetwork(64, 2, "dyt", 0.8), gaussian_inputs(16, 64, 0)
    monitor = Monitor(model, x)
    monitor.record(0)
    with torch.no_grad():
        first = model.blocks[0](x)
        share = float((first - x).square().mean() / first.square().mean())
        slope = float((1 - torch.tanh(0.8 * x) ** 2).square().mean())
    data = monitor.dataset()
    assert float(data.branch_share[0, 0]) == pytest.approx(share, rel=1e-5)
    assert float(data.slope[0, 0]) == pytest.approx(slope, rel=1e-5)


def test_alarms():
    torch.manual_seed(0)
    model = ResidualNetwork(64, 4, "dyt", 0.5)
    monitor = Monitor(model, gaussian_inputs(16, 64, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.record(0)
    with torch.no_grad():
        for block in model.blocks:
            block.linear.weight.mul_(6)
    with pytest.warns(CriticalityWarning, match=r"step 100: log J\(0->L\) = .* exceeds the budget"):
        monitor.record(100)
    with torch.no_grad():
        model.blocks[0].norm.alpha.fill_(80.0)
    with pytest.warns(CriticalityWarning, match=r"E phi'\^2 of norm 'blocks.0.norm' fell"):
        scalars = monitor.record(200)
    assert monitor.alarms[0] == (100, "chaos")
    assert "saturation of blocks.0.norm" in [kind for _, kind in monitor.alarms]
    assert scalars["criticality/alarms"] == len(monitor.alarms)
    with torch.no_grad():
        model.blocks[1].linear.weight.fill_(math.nan)
    with pytest.warns(CriticalityWarning, match=r"step 300: the model is not finite, first in 'blocks.1.linear'"):
        scalars = monitor.record(300)
    assert math.isnan(scalars["criticality/log_apjn"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.record(400)  # told once
    assert monitor.dataset().sizes["step"] == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"every": 0}, "every=0 must be"), ({"budget": math.nan}, "budget=nan must be a finite number")],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Monitor(vit(), torch.zeros(1, 3, 32, 32), **settings)
    with pytest.raises(ValueError, match="monitor must have recorded a step"):
        Monitor(vit(), torch.zeros(1, 3, 32, 32)).dataset()


def scalars_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = {path.parent for path in folder.rglob("events.out.tfevents*")}
    found = {}
    for path in files:
        accumulator = EventAccumulator(str(path))
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in accumulator.Scalars(tag))
    return found


def test_tensorboard(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    model = vit()
    with SummaryWriter(tmp_path) as writer:
        monitor = Monitor(model, torch.randn(2, 3, 32, 32), every=4, log=to_tensorboard(writer))
        train(model, 9, monitor)
    found = scalars_of(tmp_path)
    assert [step for step, _ in found["criticality/log_apjn"]] == [0, 4, 8]
    assert found["criticality/log_apjn"][2][1] == pytest.approx(float(monitor.dataset().log_apjn[2, 0]), rel=1e-5)


@pytest.mark.slow
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import TensorBoardLogger

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = vit()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    task = Task()
    monitor = Monitor(task.model, torch.randn(2, 3, 32, 32), every=3)
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(
        torch.randn(32, 3, 32, 32, generator=generator), torch.randint(0, 10, (32,), generator=generator)
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path),
        callbacks=[lightning_callback(monitor)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=4))
    assert [step for step, _ in scalars_of(tmp_path)["criticality/log_apjn"]] == [0, 3, 6]
    assert monitor.dataset().step.values.tolist() == [0, 3, 6]


@pytest.mark.slow
def test_hugging_face_trainer(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from criticality.models import replace_norms

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    replace_norms(model, "dyt", 0.5)
    ids = torch.randint(0, 64, (32, 16), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        report_to="none",
        max_steps=6,
        per_device_train_batch_size=4,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    monitor = Monitor(model, {"input_ids": ids[:2]}, every=2)
    trainer_callback(monitor, trainer)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "criticality/log_apjn" in entry]
    assert [entry["step"] for entry in history] == [0, 2, 4, 6]
    assert monitor.dataset().sizes == {"step": 4, "block": 3, "norm": 4, "branch": 2}
