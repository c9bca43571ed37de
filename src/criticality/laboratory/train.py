"""One training run, deterministic by its seed, with its APJN profile, alphas and gradient norms; resumable."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import nn

from criticality.arguments import Count, Depth, NotNegative, Positive, Seed, Size, check_fields, checked
from criticality.devices import torch_device
from criticality.errors import ArgumentError, FileError
from criticality.laboratory.diagnostics import Diagnostics
from criticality.laboratory.tasks import Task, check_task
from criticality.laboratory.tasks import task as task_named
from criticality.memory import require_memory
from criticality.models.conversion import check_norm, replace_norms
from criticality.models.normalizers import DynamicPointwise
from criticality.prescription.apply import apply_prescription
from criticality.prescription.monitor import Monitor
from criticality.prescription.solve import Kind, prescribe
from criticality.schema import SCHEMA, check_can_be_made, whole_or_absent

__all__ = [
    "DIVERGED_FACTOR",
    "GPT_RECIPE",
    "Run",
    "Series",
    "Training",
    "initial_model",
    "train",
]

DIVERGED_FACTOR = 1.5
"""A run has diverged when its loss stops being finite, or when the mean of the last ten losses exceeds the first loss by this
factor."""

_WINDOW = 10
_MLP_WEIGHTS = ("mlp.fc1.weight", "mlp.fc2.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_SERIES = ("loss", "constant_loss", "gradient_norm", "step_seconds")
Series = dict[str, list[float]]
"""What is recorded at every step, by name."""


@dataclass(frozen=True)
class Run:
    """What is trained, and how.

    Attributes:
        task: ``digits`` (ViT, 8 x 8 images, 16 tokens), ``fashion-vit`` (FashionMNIST, 16 tokens), ``code`` (GPT, bytes of Python's
            standard library) or ``code-gpt`` (the same with embeddings times a learned number).
        norm, alpha: as everywhere; ``ln``, ``rms``, ``dyt``, ``derf``, ...
        alpha_attention: of the pointwise norms before attention, where it is another than ``alpha``.
        prescription: kind of prescription for ``target``, none if ``None``.
        target: log J or ``preln``.
        depth, width: blocks and channels; fan-in initialization.
        mlp_gain: factor of the weights of both linear maps of every MLP.
        optimizer: ``adamw`` or ``muon`` (torch's own; matrices by Muon, the rest by AdamW at a tenth of the rate).
        learning_rate: peak.
        decay: after a linear warm-up ``constant``, or ``cosine`` to 0.
        weight_decay: of AdamW, on matrices (as published, not on norms, biases and alphas).
        beta2: of AdamW.
        warm_up: steps of it.
        steps, batch: optimizer steps and batch size.
        clip: largest gradient norm, 0 for none.
        seed: of weights and data.
        dtype: ``float32`` or ``bfloat16`` (autocast).
        every: steps between records of the monitor.
    """

    task: str = "digits"
    norm: str = "dyt"
    alpha: Positive | None = None
    alpha_attention: Positive | None = None
    prescription: Kind | None = None
    target: float | str = "preln"
    depth: Depth = 12
    width: Size = 64
    mlp_gain: Positive = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 1e-3
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: NotNegative = 0.0
    beta2: float = 0.999
    warm_up: Seed = 0
    steps: Count = 200
    batch: Size = 64
    clip: NotNegative = 0.0
    seed: Seed = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    every: Count = 50

    def __post_init__(self) -> None:
        check_fields(self)
        check_task(self.task)
        check_norm(self.norm, self.alpha)
        if self.alpha_attention is not None:
            check_norm(self.norm, self.alpha_attention)
        blocks = 4 * self.depth * self.width
        require_memory(
            16 * blocks * self.width, f"width={self.width!r}, depth={self.depth!r}"
        )  # weights, slopes, AdamW's two
        require_memory(blocks * self.batch, f"batch={self.batch!r}")  # one token of each sample after each block
        if not 0 < self.beta2 < 1:
            raise ArgumentError(f"beta2={self.beta2!r} must be a number between 0 and 1")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step from 0 on."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warm_up))
        if self.decay == "constant":
            return rate
        return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


GPT_RECIPE: dict[str, Any] = {"decay": "cosine", "weight_decay": 0.1, "beta2": 0.95, "clip": 1.0, "task": "code-gpt"}
"""Settings of the published trainings of DyT language models, with a warm-up and alphas by site to be chosen."""


@checked
def train(
    run: Run,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
    data_root: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Train, and return what was recorded.

    Args:
        run: what and how.
        checkpoint: file that the state is written to every ``checkpoint_every`` steps, whole or not at all, and from which
            an interrupted run goes on, to the same losses bit for bit.
        checkpoint_every: steps.
        progress: called with the step and its loss.
        device: of torch; run on the CPU only so far.
        data_root: where FashionMNIST lies, as for ``data.fashion_mnist``.

    Returns:
        Dataset with ``loss``, ``constant_loss`` (of the best prediction that ignores the input, on the same batch),
        ``gradient_norm`` and ``step_seconds`` over ``train_step``, the monitor's profiles over ``step`` and
        ``block``, and the scalars ``score``, ``diverged``, ``diverged_at`` and ``log_apjn_initial``.

    Raises:
        ValueError: a checkpoint of another run, or one that cannot be read.
    """
    training = Training(run, task_named(run.task, data_root), device)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_can_be_made(path)
    if path is not None and path.exists():
        training.load(path)
    start = len(training.series["loss"])
    if start == 0:
        training.monitor.record(0)
    for step in range(start, run.steps):
        training.step(step)
        if progress is not None:
            progress(step, training.series["loss"][-1])
        if training.has_diverged():
            return training.dataset(step)
        if (step + 1) % run.every == 0:
            training.monitor.record(step + 1)  # nan where the model is no longer finite: the losses say what diverged
        if path is not None and (step + 1) % checkpoint_every == 0:
            training.save(path)
    training.diagnostics.record(run.steps)
    return training.dataset()


class Training:
    """A run under way: its model and optimizers, what watches them, and what was recorded."""

    def __init__(self, run: Run, made: Task, device: str = "cpu"):
        self.run, self.made, self.device = run, made, device
        self.generator = torch.Generator().manual_seed(run.seed)
        self.model = initial_model(run, made).to(torch_device(device))
        self.optimizers = _optimizers(run, self.model)
        watched = made.inputs(self._there(made.batch(4, torch.Generator().manual_seed(12345))))
        self.monitor = Monitor(self.model, watched, every=run.every, budget=1e9)
        self.diagnostics = Diagnostics(self.model, self.monitor.inputs, run.steps)
        self.series: Series = {name: [] for name in _SERIES}

    def step(self, step: int) -> None:
        """The next batch, and what it changes."""
        began = time.perf_counter()
        batch = self.made.batch(self.run.batch, self.generator)
        loss, norm = self.update(batch, self.run.rate_at(step), self.diagnostics.around(step))
        taken = time.perf_counter() - began
        for name, value in zip(_SERIES, (loss, self.made.constant_loss(batch), norm, taken), strict=True):
            self.series[name].append(value)

    def update(
        self, batch: Any, rate: float, recording: AbstractContextManager[None] | None = None
    ) -> tuple[float, float]:
        """Forward, backward and the optimizers' step; the loss and the norm of its gradient."""
        self.model.train()
        for optimizer, factor in zip(self.optimizers, (1.0, 0.1), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.run.dtype == "bfloat16"):
            loss = self.made.loss(self.model, self._there(batch))
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.run.clip if self.run.clip else math.inf))
        with recording or nullcontext():
            for optimizer in self.optimizers:
                optimizer.step()
        return float(loss.detach()), norm

    def has_diverged(self) -> bool:
        """By its losses."""
        losses = self.series["loss"]
        if not math.isfinite(losses[-1]):
            return True
        return len(losses) > _WINDOW and float(np.mean(losses[-_WINDOW:])) > DIVERGED_FACTOR * losses[0]

    def _there(self, batch: Any) -> Any:
        if isinstance(batch, tuple):
            return tuple(part.to(self.device) for part in batch)
        return batch.to(self.device)

    def save(self, path: Path) -> None:
        """To a checkpoint, whole or not at all."""
        state = {
            "run": _identity(self.run),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "series": self.series,
            "monitor": self.monitor.state(),
            "diagnostics": self.diagnostics.state(),
        }
        with whole_or_absent(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Take up what ``save`` wrote."""
        state = _read(path, self.run)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.series = state["series"]
        self.monitor.load_state(state["monitor"])
        self.diagnostics.load_state(state["diagnostics"])

    def dataset(self, diverged_at: int = -1) -> xr.Dataset:
        """What was recorded, and how well the model does now."""
        run, made, result = self.run, self.made, self.monitor.dataset()
        self.model.eval()
        with torch.no_grad():
            score = float(made.score(self.model, self._there(made.validation())))
            if made.test is not None:
                result["test_score"] = float(made.score(self.model, self._there(made.test())))
        for name, values in self.series.items():
            result[name] = ("train_step", np.concatenate([values, np.full(run.steps - len(values), np.nan)]))
        result["score"] = score if math.isfinite(score) else math.nan
        if diverged_at < 0 and not math.isfinite(score):  # the last step did it
            diverged_at = run.steps - 1
        result["diverged"] = diverged_at >= 0
        result["diverged_at"] = diverged_at
        result["log_apjn_initial"] = float(result.log_apjn[0, 0])
        settings = {key: ("" if value is None else value) for key, value in asdict(run).items()}
        result = result.assign_attrs(source="training", schema=SCHEMA, **settings)
        return result.merge(self.diagnostics.dataset())


def initial_model(run: Run, made: Task) -> nn.Module:
    """What ``train`` starts from: the task's model with the run's norms, gains and prescription, by its seed."""
    torch.manual_seed(run.seed)
    model: nn.Module = made.build(run.depth, run.width)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(_MLP_WEIGHTS):
                parameter.mul_(run.mlp_gain)
    if run.norm.lower() not in ("ln", "layernorm"):
        replace_norms(model, run.norm, run.alpha)
    if run.alpha_attention is not None:
        _set_attention_alphas(model, run.alpha_attention)
    if run.prescription is not None:
        batch = made.batch(16, torch.Generator().manual_seed(54321))
        network, inputs = made.read(model, batch)
        found = prescribe(network, inputs, run.target, run.prescription, samples=4)
        apply_prescription(found, model, made.inputs(batch))
    return model


def _set_attention_alphas(model: nn.Module, alpha: float) -> None:
    """Of the norms before attention, as timm (``norm1``) and GPT-2 (``ln_1``) name them."""
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] in ("norm1", "ln_1")]
    for module in found:
        if not isinstance(module, DynamicPointwise):
            raise ArgumentError(
                f"alpha_attention={alpha!r} must come with a pointwise norm, not {type(module).__name__}"
            )
        module.initial_alpha = alpha
        nn.init.constant_(module.alpha, alpha)


def _optimizers(run: Run, model: nn.Module) -> list[torch.optim.Optimizer]:
    if run.optimizer == "adamw":
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=run.learning_rate, betas=(0.9, run.beta2), fused=True)]
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ("blocks" in name or ".h." in name)]
    chosen = {id(p) for p in hidden}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(hidden, lr=run.learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=run.learning_rate / 10, weight_decay=0.0),
    ]


def _identity(run: Run) -> dict[str, Any]:
    """What a checkpoint must be of; a run may be made longer."""
    return {key: value for key, value in asdict(run).items() if key != "steps"}


def _read(path: Path, run: Run) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise FileError(f"checkpoint {str(path)!r} must be a whole checkpoint of criticality: {error}") from error
    if set(state.get("series", ())) != set(_SERIES) or "diagnostics" not in state:
        raise FileError(f"checkpoint {str(path)!r} must be of this version of criticality, but holds other series")
    wanted = _identity(run)
    if state.get("run") != wanted:
        other = [key for key, value in wanted.items() if state.get("run", {}).get(key) != value]
        raise FileError(f"checkpoint {str(path)!r} must be of this run, but is of one with other {', '.join(other)}")
    return state
