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

from criticality.devices import torch_device
from criticality.laboratory.data import FashionMNIST, fashion_mnist
from criticality.laboratory.records import Records, geometric_steps
from criticality.laboratory.recursion import MATRICES, Stack
from criticality.laboratory.residual_run import ResidualRun, stack_of
from criticality.laboratory.steps import ADAM_BETAS, RateByRun, Replayed, corrections_at, rates_of

PROBES = 256
"""Validation images that profiles are measured on, the same in every run."""

Device = str | torch.device

_WINDOW = 10
"""Steps that one stored loss averages."""

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
    batches = _Batches(runs, pixels["train"], data.train.labels.to(on))
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
        if step % _WINDOW == 0:
            if progress is not None:
                progress(step, float(loss_now.mean()))
            if not torch.isfinite(loss_now).any():
                break
    records.record(run.steps)
    series = [values.T.double().cpu().numpy() for values in (losses, right)]
    return _datasets(runs, stack, data, pixels, records, series[0], series[1], time.perf_counter() - began)


class _Batches:
    """The images of every step, in the order of each run's seed."""

    def __init__(self, runs: Sequence[ResidualRun], pixels: Tensor, labels: Tensor):
        seeds = [seed for run in runs for seed in run.seed_numbers]
        different = list(dict.fromkeys(seeds))
        draws = [torch.Generator().manual_seed(1_000_003 + seed) for seed in different]
        size = (runs[0].batch,)
        steps = [
            torch.stack([torch.randint(0, len(labels), size, generator=draw) for draw in draws])
            for _ in range(runs[0].steps)
        ]
        self._order = torch.stack(steps).to(labels.device)  # (steps, different, batch)
        self._place = torch.tensor([different.index(seed) for seed in seeds], device=labels.device)
        self._pixels, self._labels, self._now = pixels, labels, self._order[0].clone()

    def turn_to(self, step: int) -> None:
        self._now.copy_(self._order[step])

    def read(self) -> tuple[Tensor, Tensor]:
        """Pixels ``(runs, batch, inputs)`` and labels ``(runs, batch)``."""
        return self._pixels[self._now][self._place], self._labels[self._now][self._place]


def pixels_of(run: ResidualRun, data: FashionMNIST) -> dict[str, Tensor]:
    """Of each part, as the task wants them: standardized, or in [0, 1] for ``fashion-mlp``."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    if run.task == "fashion-mlp":
        return {name: part.pixels for name, part in parts.items()}
    return {name: _standardized(data, name) for name in parts}


_CACHE: dict[tuple[int, str], Tensor] = {}


def _standardized(data: FashionMNIST, name: str) -> Tensor:
    """Kept, as a study trains hundreds of runs in one process."""
    key = id(data), name
    if key not in _CACHE:
        _CACHE[key] = data.standardized(getattr(data, name))
    return _CACHE[key]


def _optimizer(runs: Sequence[ResidualRun], stack: Stack) -> Callable[[int], None]:
    """A function that makes the update of a step: torch's own where all runs have one rate, which is two calls on the one flat
    tensor."""
    on, first = stack.flat.device, runs[0]
    alike = len({(run.learning_rate, run.warm_up, run.decay) for run in runs}) == 1
    if alike and on.type == "cpu":
        return _one_rate(first, stack)
    rates = rates_of(runs, [run.seeds for run in runs], first.steps).to(on)
    corrections = torch.tensor([corrections_at(step) for step in range(first.steps)], dtype=torch.float32, device=on)
    decayed = dict.fromkeys(MATRICES, first.weight_decay)
    by_run = RateByRun(stack.p, stack.g, decayed, first.optimizer, fused=on.type == "cuda")
    rates_now, corrections_now = torch.zeros_like(rates[0]), corrections[0].clone()
    stack.gradient.zero_()  # so that what is run to record the graph changes nothing
    update = Replayed(lambda: by_run.step(rates_now, corrections_now), on)

    def step(number: int) -> None:
        rates_now.copy_(rates[number])
        corrections_now.copy_(corrections[number])
        update()

    return step


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
    losses: np.ndarray,
    right: np.ndarray,
    seconds: float,
) -> list[xr.Dataset]:
    found, steps = records.dataset(), losses.shape[1]
    for name, series in (("loss", losses), ("accuracy", right)):
        padded = np.concatenate([series, np.full((len(series), -steps % _WINDOW), np.nan)], axis=1)
        windows = padded.reshape(len(series), -1, _WINDOW)
        found[name] = (("run", "window"), windows.mean(-1).astype(np.float32))
    for part in ("validation", "test"):
        loss, accuracy = evaluate(stack, pixels[part], getattr(data, part).labels)
        found[f"{part}_loss"], found[f"{part}_accuracy"] = ("run", loss), ("run", accuracy)
    finite = np.isfinite(losses)
    found["first_loss"] = ("run", losses[:, 0])
    found["last_loss"] = ("run", losses[:, -_WINDOW:].mean(axis=1))
    found["largest_loss"] = ("run", np.where(finite, losses, -np.inf).max(axis=1))
    found["largest_spike"] = ("run", largest_spike(losses))
    ended = np.where(finite.all(axis=1), -1, np.argmin(finite, axis=1))
    high = losses[:, -_WINDOW:].mean(axis=1) > _DIVERGED_FACTOR * math.log(stack.shape.classes)
    found["diverged"] = ("run", ((ended >= 0) | high).astype(float))
    found["diverged_at"] = ("run", ended.astype(float))
    ends = np.cumsum([run.seeds for run in runs])
    parts = [found.isel(run=slice(end - run.seeds, end)) for run, end in zip(runs, ends, strict=True)]
    for run, of_run in zip(runs, parts, strict=True):
        of_run["seconds_per_step"] = seconds / steps * run.seeds / ends[-1]
    return parts


def largest_spike(losses: np.ndarray) -> np.ndarray:
    """Largest excess of a step's loss over the mean of the ten steps before it, from step 10 on."""
    if losses.shape[1] <= _WINDOW:
        return np.zeros(len(losses))
    sums = np.cumsum(np.concatenate([np.zeros((len(losses), 1)), np.nan_to_num(losses, posinf=0.0)], axis=1), axis=1)
    before = (sums[:, _WINDOW:-1] - sums[:, : -_WINDOW - 1]) / _WINDOW
    excess = losses[:, _WINDOW:] - before
    largest: np.ndarray = np.where(np.isfinite(excess), excess, -np.inf).max(axis=1)
    return largest
