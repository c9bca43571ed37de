"""The monitor inside what people train with: checkpoints of activations, compiled and distributed models, autocast, resuming."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import forks
from criticality.measurement import measure
from criticality.models import DynamicPointwise
from criticality.prescription import CriticalityWarning, Monitor, lightning_callback, trainer_callback


class Layer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.before, self.grow, self.shrink = DynamicPointwise(width), nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x):
        return x + self.shrink(torch.nn.functional.gelu(self.grow(self.before(x))))


class Tower(nn.Module):
    def __init__(self, how="none", depth=3):
        super().__init__()
        self.tower, self.how = nn.ModuleList(Layer() for _ in range(depth)), how

    def forward(self, x):
        for layer in self.tower:
            x = layer(x) if self.how == "none" else checkpoint(layer, x, use_reentrant=self.how == "reentrant")
        return x


def tower(how="none"):
    torch.manual_seed(0)
    return Tower(how)


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def train(model, monitor=None, steps=4, autocast=False):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (model(X.clone().requires_grad_()) - 1).float().square().mean()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_checkpointed_activations_are_seen_as_others(how):
    plain, folded = Monitor(tower(), X), Monitor(tower(how), X)
    plain.record(0)
    folded.record(0)
    assert set(plain.dataset()) == set(folded.dataset())
    assert folded.dataset().norm.values.tolist() == [f"tower.{n}.before" for n in range(3)]
    for name in ("log_apjn", "slope", "branch_share", "alpha"):
        np.testing.assert_allclose(folded.dataset()[name].values, plain.dataset()[name].values, rtol=1e-5)
    model = tower(how)
    assert train(model, Monitor(model, X, every=1)) == train(tower(how))


def small_llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **sizes))


def small_vit():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=12, img_size=32, num_classes=2)


IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers': a new name of the same
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_libraries_change_nothing(reentrant):
    """They act in training mode only."""
    llama, vit = small_llama(), small_vit()
    pairs = [(llama, {"input_ids": IDS}, None), (vit, IMAGES, None)]
    expected = [measure(model, inputs, mode="training", points=points) for model, inputs, points in pairs]
    llama.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    vit.set_grad_checkpointing()
    for (model, inputs, points), plain in zip(pairs, expected, strict=True):
        model.train()
        folded = measure(model, inputs, mode="training", points=points)
        np.testing.assert_allclose(folded.log_apjn, plain.log_apjn, rtol=1e-5)
        monitor = Monitor(model, inputs)
        monitor.record(0)
        np.testing.assert_allclose(
            monitor.dataset().log_apjn.values[0], measure(model, inputs).log_apjn.values, rtol=1e-6
        )
        assert monitor.dataset().sizes["branch"] == 3


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers' names
@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config", "PromptTuningConfig"])
def test_adapters(kind):
    peft = pytest.importorskip("peft")
    settings = {
        "LoraConfig": {"r": 2, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
        "IA3Config": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        "PromptTuningConfig": {"num_virtual_tokens": 3},
    }[kind]

    def losses(watched):
        torch.manual_seed(0)
        model = peft.get_peft_model(small_llama(), getattr(peft, kind)(task_type="CAUSAL_LM", **settings)).train()
        monitor = Monitor(model, {"input_ids": IDS}, every=1)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        seen = []
        for step in range(3):
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.item())
            if watched:
                monitor.step(step)
        return seen, monitor

    seen, monitor = losses(True)
    assert seen == losses(False)[0]
    assert dict(monitor.dataset().sizes) == {"step": 3, "block": 4, "branch": 3}
    assert np.isfinite(monitor.dataset().log_apjn.values).all()


@pytest.mark.slow
def test_a_compiled_model_is_not_compiled_again():
    from torch._dynamo.testing import CompileCounter

    counts, losses = [], []
    for watched in (False, True):
        torch._dynamo.reset()
        counter, model = CompileCounter(), tower()
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        losses.append(train(compiled, Monitor(compiled, X, every=1) if watched else None))
        counts.append(counter.frame_count)
    assert losses[0] == losses[1]
    assert counts[0] == counts[1]


def test_autocast_and_no_hooks():
    model = tower()
    monitor = Monitor(model, X, every=1)
    assert train(model, monitor, autocast=True) == train(tower(), autocast=True)
    with torch.autocast("cpu", torch.bfloat16):
        monitor.record(9)
    assert np.isfinite(monitor.dataset().log_apjn.values).all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_step_never_raises_and_tells_once():
    class Moody(Tower):
        mood = "good"

        def forward(self, x):
            if self.mood == "bad":
                raise RuntimeError("out of something")
            return super().forward(x)

    torch.manual_seed(0)
    model = Moody()
    monitor = Monitor(model, X, every=1)
    assert monitor.step(0) is not None
    model.mood = "bad"
    with pytest.warns(CriticalityWarning, match="step 1: nothing was recorded.*out of something"):
        assert monitor.step(1) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.step(2) is None
    with pytest.raises(ValueError, match="out of something"):
        monitor.record(3)
    model.mood = "good"
    assert monitor.step(4) is not None
    assert monitor.dataset().step.values.tolist() == [0, 4]
    assert model.training
    with pytest.warns(CriticalityWarning, match="nothing was recorded"):
        assert Monitor(nn.Linear(16, 16), X).step(0) is None  # no stream


def test_overflow_is_recorded_as_it_is():
    model = tower()
    monitor = Monitor(model, X)
    with torch.no_grad():
        model.tower[1].shrink.bias.fill_(float("inf"))
    with pytest.warns(CriticalityWarning, match="not finite, first in 'tower.1.shrink'"):
        scalars = monitor.record(0)
    assert np.isnan(scalars["criticality/log_apjn"])
    q = monitor.dataset().q.values[0]
    assert np.isfinite(q[:2]).all()
    assert q[2] == np.inf
    assert monitor.alarms == [(0, "divergence")]


def test_gradients_that_vanish_are_no_divergence():
    class Shrinking(Tower):
        def forward(self, x):
            for layer in self.tower:
                x = layer(x * 1e-25)
            return x

    torch.manual_seed(0)
    monitor = Monitor(Shrinking(), X)
    with pytest.warns(CriticalityWarning, match="gradient at point .* must be finite and not 0"):
        assert np.isnan(monitor.record(0)["criticality/log_apjn"])
    assert monitor.alarms == [(0, "vanished")]


def test_the_state_goes_through_json():
    model = tower()
    first = Monitor(model, X)
    first.record(0)
    with torch.no_grad():
        model.tower[1].shrink.weight.fill_(float("nan"))
    with pytest.warns(CriticalityWarning, match="first in 'tower.1.shrink'"):
        first.record(5)
    again = Monitor(tower(), X)
    again.load_state(json.loads(json.dumps(first.state())))
    for name in first.dataset():
        np.testing.assert_array_equal(again.dataset()[name].values, first.dataset()[name].values)
    assert again.alarms == first.alarms
    assert again.budget == first.budget
    again.record(10)
    assert again.dataset().step.values.tolist() == [0, 5, 10]


_DISTRIBUTED = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {folder!r})
from test_monitor_in_training import Monitor, X, tower, train
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
without = train(DistributedDataParallel(tower()))
model = DistributedDataParallel(tower())
monitor = Monitor(model, X, every=1)
watched = train(model, monitor if rank == 0 else None)  # one process alone may watch
assert watched == without, (watched, without)
if rank == 0:
    assert monitor.dataset().sizes["step"] == 4
    assert monitor.dataset().norm.values[0] == "tower.0.before"
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(_DISTRIBUTED.format(folder=str(Path(__file__).parent)))
    runs = [forks.start(script, rank, tmp_path / "meet") for rank in range(2)]
    told = [run.communicate(timeout=180)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told[0][-2000:] + told[1][-2000:]


@pytest.mark.slow
def test_lightning_resumes_with_what_was_recorded(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = tower()

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def fit(epochs, resume=None):
        task = Task()
        monitor = Monitor(task.model, X, every=2)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[lightning_callback(monitor)],
            default_root_dir=tmp_path,
            **quiet,
        )
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 5, 16)), batch_size=2)
        trainer.fit(task, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return monitor.dataset().step.values.tolist()

    assert fit(1) == [0, 2, 4]
    assert fit(2, tmp_path / "saved.ckpt") == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_the_trainer_resumes_with_what_was_recorded(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16, bos_token_id=0, eos_token_id=0)
    ids = torch.randint(0, 64, (32, 16), generator=torch.Generator().manual_seed(0))

    def fit(steps, resume):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            report_to="none",
            max_steps=steps,
            per_device_train_batch_size=4,
            use_cpu=True,
            save_steps=4,
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
        monitor = Monitor(model, {"input_ids": ids[:2]}, every=2)
        trainer_callback(monitor, trainer)
        trainer.train(resume_from_checkpoint=resume)
        return monitor.dataset().step.values.tolist()

    assert fit(4, None) == [0, 2, 4]
    assert fit(6, True) == [0, 2, 4, 6]
    (tmp_path / "checkpoint-6" / "criticality_monitor.json").write_text("{")
    with pytest.warns(CriticalityWarning, match="must hold what the monitor had recorded"):
        assert fit(8, True) == [8]
