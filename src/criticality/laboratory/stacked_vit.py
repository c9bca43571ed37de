"""Trainings of the small FashionMNIST ViT (``fashion_vit``), many runs at once in one stack, as a card does as fast as one.

The model is timm's: parameters by its names, the axis of runs in front (``tests/laboratory/test_together.py`` compares them).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from criticality.devices import torch_device
from criticality.errors import ArgumentError
from criticality.laboratory.data import fashion_mnist
from criticality.laboratory.fashion_vit import PATCH
from criticality.laboratory.records import (
    SATURATED,
    WINDOW,
    geometric_steps,
    log_mean_square,
    pair_correlation,
    window_means,
)
from criticality.laboratory.recursion import ALIASES, POINTWISE, relative_slope
from criticality.laboratory.steps import Batches, RateByRun, Replayed, Updates, rates_of, require_alike
from criticality.laboratory.tasks import task
from criticality.laboratory.train import DIVERGED_FACTOR, Run, initial_model

__all__ = [
    "train_vits",
]

SIDE = 28
HEAD_WIDTH = 32
PROBES = 64
"""Validation images that profiles are measured on."""

_EPSILON = 1e-6
_CHANCE = 0.1
APART = ("seed", "alpha", "alpha_attention", "prescription", "target", "mlp_gain", "learning_rate", "decay", "warm_up")


@dataclass(frozen=True)
class Start:
    """Parameters of several models at initialization, ``(runs, a, b)`` by timm's names, and which of them are decayed."""

    parameters: dict[str, Tensor]
    matrices: tuple[str, ...]
    norm: str
    depth: int


def start_of(runs: Sequence[Run], data_root: str | os.PathLike[str] | None = None) -> Start:
    """As ``train`` begins them, each by its seed.

    Raises:
        CriticalityError: runs that differ in what a stack must share, or ask for what it has not.
    """
    first = runs[0]
    for run in runs:
        if (
            run.task != "fashion-vit"
            or run.optimizer != "adamw"
            or run.clip
            or run.dtype != "float32"
            or run.beta2 != 0.999
        ):
            raise ArgumentError(
                f"run {run!r} must be of fashion-vit in float32 by AdamW (beta2 0.999, no clipping) to be trained in a stack"
            )
    require_alike(runs, APART)
    made, states, known = task(first.task, data_root), [], {}
    for run in runs:
        key = replace(run, learning_rate=1.0, warm_up=0, decay="constant")
        if key not in known:
            known[key] = {name: p.detach() for name, p in initial_model(run, made).named_parameters()}
        states.append(known[key])
    matrices = tuple(name for name, p in states[0].items() if p.ndim > 1)
    stacked = {name: torch.stack([_flat(state[name]) for state in states]) for name in states[0]}
    return Start(stacked, matrices, first.norm, first.depth)


def _flat(parameter: Tensor) -> Tensor:
    """As a matrix: vectors are rows, kernels of the patches ``(width, pixels)``, positions ``(tokens, width)``."""
    if parameter.ndim <= 1:
        return parameter.reshape(1, -1)
    if parameter.ndim == 3:
        return parameter[0]
    return parameter.flatten(1)


class VitStack:
    """Forward pass of the stack.

    Attributes:
        p: parameters ``(runs, a, b)`` by name, which require gradients.
        runs, depth: of the stack.
    """

    def __init__(self, start: Start, device: torch.device):
        self.p = {name: value.to(device).contiguous().requires_grad_() for name, value in start.parameters.items()}
        self.depth, self.norm = start.depth, start.norm.lower()
        self.runs = next(iter(self.p.values())).shape[0]
        self.width = self.p["head.weight"].shape[-1]
        name = ALIASES.get(self.norm, self.norm)
        self.function = name if name in POINTWISE else None

    def linear(self, name: str, x: Tensor) -> Tensor:
        return torch.baddbmm(self.p[f"{name}.bias"], x, self.p[f"{name}.weight"].transpose(1, 2))

    def inner(self, name: str, x: Tensor) -> Tensor:
        """``alpha x + shift`` of a pointwise norm."""
        u = self.p[f"{name}.alpha"] * x
        return u + self.p[f"{name}.shift"] if f"{name}.shift" in self.p else u

    def normalized(self, name: str, x: Tensor) -> Tensor:
        if self.function is not None:
            y = POINTWISE[self.function][0](self.inner(name, x))
        elif self.norm == "rms":
            y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)
        else:
            y = functional.layer_norm(x, x.shape[-1:], eps=_EPSILON)
        y = y * self.p[f"{name}.weight"]
        return y + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else y

    def embedded(self, pixels: Tensor) -> Tensor:
        """Stream ``(runs, batch * tokens, width)`` at the start, of ``pixels`` ``(runs, batch, 784)``."""
        runs, batch, _ = pixels.shape
        count = SIDE // PATCH
        patches = pixels.reshape(runs, batch, count, PATCH, count, PATCH).transpose(3, 4)
        x = self.linear("patch_embed.proj", patches.reshape(runs, batch * count**2, PATCH**2))
        x = x.view(runs, batch, count**2, -1) + self.p["pos_embed"].unsqueeze(1)
        return x.flatten(1, 2)

    def block(self, number: int, x: Tensor, entropies: list[Tensor] | None = None) -> Tensor:
        name = f"blocks.{number}"
        x = self._attended(number, x, entropies)
        hidden = functional.gelu(self.linear(f"{name}.mlp.fc1", self.normalized(f"{name}.norm2", x)))
        return x + self.linear(f"{name}.mlp.fc2", hidden)

    def stream(self, pixels: Tensor, entropies: list[Tensor] | None = None) -> list[Tensor]:
        """Points ``(runs, batch * tokens, width)`` at ``0 .. depth``, of ``pixels`` ``(runs, batch, 784)``."""
        points = [self.embedded(pixels)]
        for number in range(self.depth):
            points.append(self.block(number, points[-1], entropies))
        return points

    def _attended(self, number: int, x: Tensor, entropies: list[Tensor] | None = None) -> Tensor:
        name = f"blocks.{number}"
        return x + self._attention(f"{name}.attn", self.normalized(f"{name}.norm1", x), entropies)

    def _attention(self, name: str, x: Tensor, entropies: list[Tensor] | None) -> Tensor:
        runs, tokens, heads = self.runs, (SIDE // PATCH) ** 2, max(1, self.width // HEAD_WIDTH)
        size = self.width // heads
        cut = self.linear(f"{name}.qkv", x).view(runs, -1, tokens, 3, heads, size)
        q, k, v = (part.transpose(2, 3).reshape(-1, tokens, size) for part in cut.unbind(3))
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * size**-0.5, -1)
        if entropies is not None:
            entropies.append(-torch.special.xlogy(weights, weights).sum(-1).view(runs, -1).mean(1) / math.log(tokens))
        mixed = torch.bmm(weights, v).view(runs, -1, heads, tokens, size).transpose(2, 3)
        return self.linear(f"{name}.proj", mixed.reshape(runs, -1, self.width))

    def pooled(self, last: Tensor) -> Tensor:
        """Mean over tokens of the last point, ``(runs, batch, width)``."""
        return last.view(self.runs, -1, (SIDE // PATCH) ** 2, self.width).mean(2)

    def logits(self, pixels: Tensor) -> Tensor:
        """``(runs, batch, classes)`` of ``pixels`` ``(runs, batch, 784)``."""
        return self.linear("head", self.normalized("fc_norm", self.pooled(self.stream(pixels)[-1])))

    def slopes(self, points: Sequence[Tensor]) -> list[Tensor]:
        """``(phi'(u) / phi'(0))^2`` at the norms in the order they are met, of the points of a stream; none of LayerNorm."""
        if self.function is None:
            return []
        met = []
        for number, x in enumerate(points[:-1]):
            met += [(f"blocks.{number}.norm1", x), (f"blocks.{number}.norm2", self._attended(number, x))]
        met.append(("fc_norm", self.pooled(points[-1])))
        return [relative_slope(POINTWISE[self.function], self.inner(name, x)) for name, x in met]


class VitRecords:
    """Profiles at geometric steps and changes of single steps on fixed images, as ``diagnostics`` has them of one model."""

    def __init__(self, stack: VitStack, pixels: Tensor, steps: Sequence[int]):
        self.stack, self.steps = stack, list(steps)
        self.pixels = pixels.expand(stack.runs, -1, -1)
        self._at = {step: place for place, step in enumerate(self.steps)}
        draw = torch.Generator().manual_seed(2024)
        tokens = pixels.shape[0] * (SIDE // PATCH) ** 2
        self._probe = torch.randn((1, tokens, stack.width), generator=draw).to(pixels.device)
        self.rows: dict[str, dict[int, np.ndarray]] = {}

    def record(self, step: int) -> Tensor:
        """Measure now; returns the last point of the stream."""
        stack, entropies = self.stack, list[Tensor]()
        points = stack.stream(self.pixels, entropies)
        deltas = torch.autograd.grad(points[-1], points, self._probe.expand_as(points[-1]))
        with torch.no_grad():
            slopes = stack.slopes(points)
        streams = [x.detach() for x in points]
        images = [x.view(stack.runs, self.pixels.shape[1], -1) for x in streams]
        self._note(step, "log_apjn", [log_mean_square(delta) for delta in deltas])
        self._note(step, "log_q", [log_mean_square(x) for x in streams])
        self._note(step, "log_slope", [_numbers(s.double().mean((1, 2)).clamp_min(1e-30).log()) for s in slopes])
        self._note(step, "saturated", [_numbers((s < SATURATED).double().mean((1, 2))) for s in slopes])
        self._note(step, "correlation", [pair_correlation(x) for x in images])
        self._note(step, "attention_entropy", [_numbers(value) for value in entropies])
        return points[-1].detach()

    def note_change(self, step: int, before: Mapping[str, Tensor], stream: Tensor) -> None:
        """What the update of a step changed, of weights ``before`` and of the last point of the stream."""
        with torch.no_grad():
            size = torch.stack([w.square().sum((1, 2)) for w in before.values()]).sum(0)
            changes = [(self.stack.p[name] - w).square().sum((1, 2)) for name, w in before.items()]
            x = self.stack.stream(self.pixels)[-1]
            moved = (x - stream).flatten(1).norm(dim=1) / stream.flatten(1).norm(dim=1)
        self._note(step, "update", [_numbers((torch.stack(changes).sum(0) / size).sqrt())])
        self._note(step, "stream_change", [_numbers(moved)])

    def _note(self, step: int, name: str, values: list[np.ndarray]) -> None:
        if values:
            self.rows.setdefault(name, {})[step] = np.stack(values, -1).astype(np.float32)

    def series(self) -> dict[str, np.ndarray]:
        """By name, ``(runs, records, ...)``; ``nan`` where nothing was recorded."""
        found = {}
        for name, rows in self.rows.items():
            full = np.full((self.stack.runs, len(self.steps), next(iter(rows.values())).shape[1]), np.nan, np.float32)
            for step, values in rows.items():
                full[:, self._at[step]] = values
            found[f"{name}_series"] = full[:, :, 0] if name in ("update", "stream_change") else full
        return found


def train_vits(
    runs: Sequence[Run],
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, np.ndarray]:
    """Train several runs in one stack, each as ``train`` would, to rounding.

    Args:
        runs: of ``fashion-vit``, that differ in nothing but seed, alpha, gain and prescription, and the rate and its course.
        data_root: as for ``fashion_mnist``.
        progress: called with the step and the mean loss every ten steps.
        device: of torch.

    Returns:
        By name ``(runs, ...)``: ``loss_series`` (means of ten steps), accuracies on validation and test images, ``diverged`` and
        ``diverged_at``, ``first_loss``, ``last_loss``, ``largest_loss``, ``largest_spike``, ``log_apjn_by_run`` at initialization,
        the profiles of ``VitRecords`` with ``_series`` in their names, and ``step_seconds``, the share of a run.  What a run that
        diverged did afterwards is left out, as nan.

    Raises:
        CriticalityError: runs that a stack cannot hold together.
        ValueError: as ``fashion_mnist``.
    """
    began, on, first = time.perf_counter(), torch_device(device), runs[0]
    data = fashion_mnist(data_root)
    start = start_of(runs, data_root)
    stack = VitStack(start, on)
    pixels = {name: part.to(on) for name, part in data.standard.items()}
    records = VitRecords(stack, pixels["validation"][:PROBES], geometric_steps(first.steps))
    stepping = _Stepping(runs, stack, start, pixels["train"], data.train.labels.to(on))
    losses = torch.full((first.steps, stack.runs), math.nan, device=on)
    for step in range(first.steps):
        losses[step] = stepping.gradient(step)
        recorded = step in records.steps
        if recorded:
            stream = records.record(step)
            before = {name: stack.p[name].detach().clone() for name in start.matrices}
        stepping.update(step)
        if recorded:
            records.note_change(step, before, stream)
        if progress is not None and step % WINDOW == 0:
            progress(step, float(losses[step].mean()))
    records.record(first.steps)
    found = _outcome(losses.T.double().cpu().numpy(), records)
    for part in ("validation", "test"):
        found[f"{part}_accuracy"] = _accuracy(stack, pixels[part], getattr(data, part).labels.to(on), found["diverged"])
    return found | {"step_seconds": np.full(stack.runs, (time.perf_counter() - began) / first.steps / stack.runs)}


class _Stepping:
    """Gradient and update of a step, replayed on a card."""

    def __init__(self, runs: Sequence[Run], stack: VitStack, start: Start, pixels: Tensor, labels: Tensor):
        on, first = pixels.device, runs[0]
        self._batches = Batches([run.seed for run in runs], first.steps, first.batch, pixels, labels)
        self._loss = torch.zeros(len(runs), device=on)
        gradients = {name: torch.zeros_like(p) for name, p in stack.p.items()}
        plain = {name: p.detach() for name, p in stack.p.items()}
        decayed = dict.fromkeys(start.matrices, first.weight_decay)
        optimizer = RateByRun(plain, gradients, decayed, "adamw", fused=on.type == "cuda")

        def gradient() -> None:
            x, y = self._batches.read()
            each = functional.cross_entropy(stack.logits(x).flatten(0, 1), y.flatten(), reduction="none")
            loss = each.view(len(runs), -1).mean(1)
            for name, found in zip(stack.p, torch.autograd.grad(loss.sum(), list(stack.p.values())), strict=True):
                gradients[name].copy_(found)
            self._loss.copy_(loss.detach())

        self.update = Updates(optimizer, rates_of(runs, [1] * len(runs), first.steps).to(on))
        self._gradient = Replayed(gradient, on)

    def gradient(self, step: int) -> Tensor:
        """Losses ``(runs,)`` on the batch of a step."""
        self._batches.turn_to(step)
        self._gradient()
        return self._loss


def _outcome(losses: np.ndarray, records: VitRecords) -> dict[str, np.ndarray]:
    """Series, and when and whether runs diverged, by the rule of ``train``."""
    from criticality.laboratory.stacked import largest_spike

    at = np.array([diverges_at(row) for row in losses])
    past = (at[:, None] >= 0) & (np.arange(losses.shape[1]) > at[:, None])
    losses = np.where(past, np.nan, losses)
    finite = np.where(np.isfinite(losses), losses, -np.inf)
    found: dict[str, np.ndarray] = {
        "loss_series": window_means(losses),
        "diverged": (at >= 0).astype(float),
        "diverged_at": at.astype(float),
        "first_loss": losses[:, 0],
        "last_loss": np.where(at >= 0, np.inf, losses[:, -WINDOW:].mean(1)),
        "largest_loss": finite.max(1),
        "largest_spike": largest_spike(losses),
    }
    series = records.series()
    late = (at[:, None] >= 0) & (np.array(records.steps) > at[:, None])
    for name, values in series.items():
        values[late] = np.nan
        found[name] = values
    return found | {"log_apjn_by_run": series["log_apjn_series"][:, 0, 0].astype(float)}


def diverges_at(losses: np.ndarray) -> int:
    """First step at which a loss is not finite or the last ten average ``DIVERGED_FACTOR`` times the first, -1 if none."""
    bad = ~np.isfinite(losses)
    if len(losses) > WINDOW:
        sums = np.cumsum(np.append(0.0, np.nan_to_num(losses, posinf=0.0)))
        bad[WINDOW:] |= (sums[WINDOW + 1 :] - sums[1:-WINDOW]) / WINDOW > DIVERGED_FACTOR * losses[0]
    return int(np.argmax(bad)) if bad.any() else -1


@torch.no_grad()
def _accuracy(stack: VitStack, pixels: Tensor, labels: Tensor, diverged: np.ndarray) -> np.ndarray:
    right = torch.zeros(stack.runs, device=pixels.device)
    for x, y in zip(pixels.split(250), labels.split(250), strict=True):
        right += (stack.logits(x.expand(stack.runs, -1, -1)).argmax(-1) == y).sum(-1)
    found: np.ndarray = np.where(diverged > 0, _CHANCE, (right / len(labels)).double().cpu().numpy())
    return found


def _numbers(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().cpu().numpy()
    return found
