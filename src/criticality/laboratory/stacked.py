"""Trainings of the residual recursion on FashionMNIST, several seeds at once, with what tells *how* a run ends."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from criticality.arguments import checked
from criticality.devices import torch_device
from criticality.laboratory.data import FashionMNIST, fashion_mnist
from criticality.laboratory.records import WINDOW, Records, geometric_steps, window_means
from criticality.laboratory.recursion import MATRICES, Stack
from criticality.laboratory.residual_run import ResidualRun, stack_of
from criticality.laboratory.steps import ADAM_BETAS, Batches, RateByRun, Replayed, Updates, rates_of

__all__ = [
    "train_stacked",
    "train_together",
]

PROBES = 256
"""Validation images that profiles are measured on, the same in every run."""

Device = str | torch.device

_ORDER = 1_000_003
"""Added to a run's seed, of the order of its data."""

_DIVERGED_FACTOR = 1.5
"""A run has diverged when a loss is not finite, or its last ten average this many times log(classes)."""


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Dead units would slow every product down tenfold; the mode is the whole thread's, and is put back."""
    before = float(torch.full((1,), 1e-310, dtype=torch.float64) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@checked
def train_stacked(
    run: ResidualRun,
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: Device = "cpu",
) -> xr.Dataset:
    """Train the seeds of a run together.

    Args:
        run: what and how.
        data_root: as for ``fashion_mnist``.
        progress: called with the step and the mean loss every ten steps.
        device: of torch.

    Returns:
        Dataset over ``run`` (seeds), ``window`` (ten steps each), ``record`` (geometric steps, and the end) and ``point`` (of the
        stream, ``0 .. depth``).  ``loss`` and ``accuracy`` ``(run, window)`` are of training batches; ``validation_loss``,
        ``validation_accuracy``, ``test_loss``, ``test_accuracy``, ``largest_loss``, ``largest_spike`` (of a loss above the mean of
        the ten before it), ``diverged`` and ``diverged_at`` are ``(run,)``; ``Records`` has the rest.  A run whose loss is not
        finite has diverged, which is a result: its series end in nan and its accuracies are those of a constant guess.

    Raises:
        ValueError: as ``fashion_mnist``.
    """
    return train_together([run], data_root=data_root, progress=progress, device=device)[0]


@checked
@_flushing_denormals()
def train_together(
    runs: Sequence[ResidualRun],
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: Device = "cpu",
) -> list[xr.Dataset]:
    """Train several runs in one stack, as a card does as fast as one: each as ``train_stacked`` would, to rounding.

    Args:
        runs: that differ in nothing but alpha, the scales of weights and biases, the rate and its course, and their seeds.
        data_root, progress, device: as for ``train_stacked``; ``seconds_per_step`` of a run is its share.

    Raises:
        ValueError: as ``train_stacked``; runs that differ in something else.
    """
    began = time.perf_counter()
    on = torch_device(device)
    run, data = runs[0], fashion_mnist(data_root)
    pixels = {name: part.to(on) for name, part in pixels_of(run, data).items()}
    stack = stack_of(runs, device=on)
    orders = [_ORDER + seed for one in runs for seed in one.seed_numbers]
    batches = Batches(orders, run.steps, run.batch, pixels["train"], data.train.labels.to(on))
    optimizer = _optimizer(runs, stack)
    probes = pixels["validation"][:PROBES].expand(stack.shape.runs, -1, -1)
    records = Records(stack, probes, geometric_steps(run.steps))
    losses, right = (torch.full((run.steps, stack.shape.runs), math.nan, device=on) for _ in range(2))
    loss_now, right_now = losses[0].clone(), losses[0].clone()

    def gradient() -> None:
        x, y = batches.read()
        loss, logits = stack.loss_and_gradient(x, y)
        loss_now.copy_(loss)
        right_now.copy_((logits.argmax(-1) == y).float().mean(-1))

    batches.turn_to(0)
    differentiate = Replayed(gradient, on)
    for step in range(run.steps):
        batches.turn_to(step)
        differentiate()
        losses[step], right[step] = loss_now, right_now
        with records.around(step):
            optimizer(step)
        if step % WINDOW == 0:
            if progress is not None:
                progress(step, float(loss_now.mean()))
            if not torch.isfinite(loss_now).any():
                break
    records.record(run.steps)
    series = [values.T.double().cpu().numpy() for values in (losses, right)]
    return _datasets(
        runs, stack, data, pixels, records, losses=series[0], right=series[1], seconds=time.perf_counter() - began
    )


def pixels_of(run: ResidualRun, data: FashionMNIST) -> dict[str, Tensor]:
    """Of each part, as the task wants them: standardized, or in [0, 1] for ``fashion-mlp``."""
    if run.task == "fashion-mlp":
        return {"train": data.train.pixels, "validation": data.validation.pixels, "test": data.test.pixels}
    return data.standard


def _optimizer(runs: Sequence[ResidualRun], stack: Stack) -> Callable[[int], None]:
    """A function that makes the update of a step: torch's own where all runs have one rate, which is two calls on the one flat
    tensor."""
    on, first = stack.flat.device, runs[0]
    alike = len({(run.learning_rate, run.warm_up, run.decay) for run in runs}) == 1
    if alike and on.type == "cpu":
        return _one_rate(first, stack)
    decayed = dict.fromkeys(MATRICES, first.weight_decay)
    by_run = RateByRun(stack.p, stack.g, decayed, first.optimizer, fused=on.type == "cuda")
    return Updates(by_run, rates_of(runs, [run.seeds for run in runs], first.steps).to(on))


def _one_rate(run: ResidualRun, stack: Stack) -> Callable[[int], None]:
    groups: list[dict[str, Any]] = []
    for part, decay in ((slice(None, stack.decayed), run.weight_decay), (slice(stack.decayed, None), 0.0)):
        parameter = torch.nn.Parameter(stack.flat[part])
        parameter.grad = stack.gradient[part]
        groups.append({"params": [parameter], "weight_decay": decay})
    optimizer: torch.optim.Optimizer
    if run.optimizer == "sgd":
        optimizer = torch.optim.SGD([{**group, "weight_decay": 0.0} for group in groups], lr=run.learning_rate)
    else:
        optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, betas=ADAM_BETAS, fused=True)

    def step(number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = run.rate_at(number)
        optimizer.step()

    return step


def evaluate(stack: Stack, pixels: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and accuracy ``(runs,)`` over all images; a run that gives nan is as right as chance."""
    runs, size = stack.shape.runs, 500
    loss, right = (torch.zeros(runs, dtype=torch.float64, device=pixels.device) for _ in range(2))
    labels = labels.to(pixels.device)
    for x, y in zip(pixels.split(size), labels.split(size), strict=True):
        logits = stack.logits(x.expand(runs, -1, -1))
        log_p = torch.log_softmax(logits, -1)
        loss -= log_p[:, torch.arange(len(y), device=y.device), y].double().sum(-1)
        right += (logits.argmax(-1) == y).double().sum(-1)
    mean = (loss / len(labels)).cpu().numpy()
    return mean, np.where(np.isfinite(mean), (right / len(labels)).cpu().numpy(), 1 / stack.shape.classes)


def _datasets(
    runs: Sequence[ResidualRun],
    stack: Stack,
    data: FashionMNIST,
    pixels: dict[str, Tensor],
    records: Records,
    *,
    losses: np.ndarray,
    right: np.ndarray,
    seconds: float,
) -> list[xr.Dataset]:
    found, steps = records.dataset(), losses.shape[1]
    for name, series in (("loss", losses), ("accuracy", right)):
        found[name] = (("run", "window"), window_means(series).astype(np.float32))
    for part in ("validation", "test"):
        loss, accuracy = evaluate(stack, pixels[part], getattr(data, part).labels)
        found[f"{part}_loss"], found[f"{part}_accuracy"] = ("run", loss), ("run", accuracy)
    finite = np.isfinite(losses)
    found["first_loss"] = ("run", losses[:, 0])
    found["last_loss"] = ("run", losses[:, -WINDOW:].mean(axis=1))
    found["largest_loss"] = ("run", np.where(finite, losses, -np.inf).max(axis=1))
    found["largest_spike"] = ("run", largest_spike(losses))
    ended = np.where(finite.all(axis=1), -1, np.argmin(finite, axis=1))
    high = losses[:, -WINDOW:].mean(axis=1) > _DIVERGED_FACTOR * math.log(stack.shape.classes)
    found["diverged"] = ("run", ((ended >= 0) | high).astype(float))
    found["diverged_at"] = ("run", ended.astype(float))
    ends = np.cumsum([run.seeds for run in runs])
    parts = [found.isel(run=slice(end - run.seeds, end)) for run, end in zip(runs, ends, strict=True)]
    for run, of_run in zip(runs, parts, strict=True):
        of_run["seconds_per_step"] = seconds / steps * run.seeds / ends[-1]
    return parts


def largest_spike(losses: np.ndarray) -> np.ndarray:
    """Largest excess of a step's loss over the mean of the ten steps before it, from step 10 on."""
    if losses.shape[1] <= WINDOW:
        return np.zeros(len(losses))
    sums = np.cumsum(np.concatenate([np.zeros((len(losses), 1)), np.nan_to_num(losses, posinf=0.0)], axis=1), axis=1)
    before = (sums[:, WINDOW:-1] - sums[:, : -WINDOW - 1]) / WINDOW
    excess = losses[:, WINDOW:] - before
    largest: np.ndarray = np.where(np.isfinite(excess), excess, -np.inf).max(axis=1)
    return largest
