"""Trainings of the small FashionMNIST ViT (``fashion_vit``), many runs at once in one stack, as a card does as fast as one.

The model is timm's: parameters by its names, the axis of runs in front (``tests/laboratory/test_together.py`` compares them).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from criticality.devices import torch_device
from criticality.errors import ArgumentError
from criticality.laboratory.data import fashion_mnist
from criticality.laboratory.fashion_vit import PATCH
from criticality.laboratory.records import SATURATED, geometric_steps
from criticality.laboratory.recursion import ALIASES, POINTWISE
from criticality.laboratory.steps import RateByRun, Replayed, corrections_at, rates_of
from criticality.laboratory.tasks import task
from criticality.laboratory.train import DIVERGED_FACTOR, Run, initial_model

SIDE = 28
HEAD_WIDTH = 32
PROBES = 64
"""Validation images that profiles are measured on."""

_EPSILON = 1e-6
_WINDOW = 10
_CHANCE = 0.1
APART = ("seed", "alpha", "alpha_attention", "prescription", "target", "mlp_gain", "learning_rate", "decay", "warm_up")


@dataclass(frozen=True)
class Start:
    """Parameters of several models at initialization, ``(runs, a, b)`` by timm's names, and which of them are decayed."""

    parameters: dict[str, Tensor]
    matrices: frozenset[str]
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
        apart = [name for name, value in asdict(run).items() if name not in APART and value != getattr(first, name)]
        if apart:
            name = apart[0]
            raise ArgumentError(
                f"runs must agree in {name} to be trained together, and have {getattr(first, name)!r} and {getattr(run, name)!r}"
            )
    made, states, known = task(first.task, data_root), [], {}
    for run in runs:
        key = replace(run, learning_rate=1.0, warm_up=0, decay="constant")
        if key not in known:
            known[key] = {name: p.detach() for name, p in initial_model(run, made).named_parameters()}
        states.append(known[key])
    matrices = frozenset(name for name, p in states[0].items() if p.ndim > 1)
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
            y = {"tanh": torch.tanh, "erf": torch.erf}[self.function](self.inner(name, x))
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
        x = x + self._attention(f"{name}.attn", self.normalized(f"{name}.norm1", x), entropies)
        hidden = functional.gelu(self.linear(f"{name}.mlp.fc1", self.normalized(f"{name}.norm2", x)))
        return x + self.linear(f"{name}.mlp.fc2", hidden)

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

    def logits(self, pixels: Tensor) -> Tensor:
        """``(runs, batch, classes)`` of ``pixels`` ``(runs, batch, 784)``."""
        x = self.embedded(pixels)
        for number in range(self.depth):
            x = self.block(number, x)
        pooled = x.view(self.runs, pixels.shape[1], -1, self.width).mean(2)
        return self.linear("head", self.normalized("fc_norm", pooled))

    def slopes(self, pixels: Tensor) -> list[Tensor]:
        """``(phi'(u) / phi'(0))^2`` at the norms in the order they are met, none of LayerNorm."""
        if self.function is None:
            return []
        value, back = POINTWISE[self.function]
        found = []

        def note(name: str, x: Tensor) -> None:
            u = self.inner(name, x)
            zero = torch.zeros(1, device=x.device)
            at_zero = float(back(torch.ones_like(zero), zero, value(zero))) or 1.0
            found.append((back(torch.ones_like(u), u, value(u)) / at_zero).square())

        x = self.embedded(pixels)
        for number in range(self.depth):
            name = f"blocks.{number}"
            note(f"{name}.norm1", x)
            x_mid = x + self._attention(f"{name}.attn", self.normalized(f"{name}.norm1", x), None)
            note(f"{name}.norm2", x_mid)
            x = self.block(number, x)
        note("fc_norm", x.view(self.runs, pixels.shape[1], -1, self.width).mean(2))
        return found


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
        points = [stack.embedded(self.pixels)]
        for number in range(stack.depth):
            points.append(stack.block(number, points[-1], entropies))
        deltas = torch.autograd.grad(points[-1], points, self._probe.expand_as(points[-1]))
        with torch.no_grad():
            slopes = stack.slopes(self.pixels)
        images = self.pixels.shape[1]
        self._note(step, "log_apjn", [_log_mean_square(delta) for delta in deltas])
        self._note(step, "log_q", [_log_mean_square(x.detach()) for x in points])
        self._note(step, "log_slope", [s.double().mean((1, 2)).clamp_min(1e-30).log() for s in slopes])
        self._note(step, "saturated", [(s < SATURATED).double().mean((1, 2)) for s in slopes])
        self._note(step, "correlation", [_correlation(x.detach(), images) for x in points])
        self._note(step, "attention_entropy", [value.detach() for value in entropies])
        return points[-1].detach()

    def note_change(self, step: int, before: Mapping[str, Tensor], stream: Tensor) -> None:
        """What the update of a step changed, of weights ``before`` and of the last point of the stream."""
        with torch.no_grad():
            size = torch.stack([w.square().sum((1, 2)) for w in before.values()]).sum(0)
            changes = [(self.stack.p[name] - w).square().sum((1, 2)) for name, w in before.items()]
            x = self.stack.embedded(self.pixels)
            for number in range(self.stack.depth):
                x = self.stack.block(number, x)
            moved = (x - stream).flatten(1).norm(dim=1) / stream.flatten(1).norm(dim=1)
        self._note(step, "update", [(torch.stack(changes).sum(0) / size).sqrt()])
        self._note(step, "stream_change", [moved])

    def _note(self, step: int, name: str, values: list[Tensor]) -> None:
        if values:
            self.rows.setdefault(name, {})[step] = torch.stack(values, -1).float().cpu().numpy()

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
    pixels = {name: data.standardized(getattr(data, name)).to(on) for name in ("train", "validation", "test")}
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
        if progress is not None and step % _WINDOW == 0:
            progress(step, float(losses[step].mean()))
    records.record(first.steps)
    found = _outcome(losses.T.double().cpu().numpy(), records)
    for part in ("validation", "test"):
        found[f"{part}_accuracy"] = _accuracy(stack, pixels[part], getattr(data, part).labels.to(on), found["diverged"])
    return found | {"step_seconds": np.full(stack.runs, (time.perf_counter() - began) / first.steps / stack.runs)}


class _Stepping:
    """Gradient and update of a step, replayed on a card."""

    def __init__(self, runs: Sequence[Run], stack: VitStack, start: Start, pixels: Tensor, labels: Tensor):
        on, steps = pixels.device, runs[0].steps
        seeds = list(dict.fromkeys(run.seed for run in runs))
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        size = (runs[0].batch,)
        order = [
            torch.stack([torch.randint(0, len(labels), size, generator=draw) for draw in draws]) for _ in range(steps)
        ]
        self._order = torch.stack(order).to(on)
        place = torch.tensor([seeds.index(run.seed) for run in runs], device=on)
        chosen = self._order[0].clone()
        self._rates = rates_of(runs, [1] * len(runs), steps).to(on)
        self._corrections = torch.tensor([corrections_at(step) for step in range(steps)], device=on)
        rates, corrections = torch.zeros_like(self._rates[0]), self._corrections[0].clone()
        self._loss = torch.zeros(len(runs), device=on)
        gradients = {name: torch.zeros_like(p) for name, p in stack.p.items()}
        plain = {name: p.detach() for name, p in stack.p.items()}
        decayed = dict.fromkeys(start.matrices, runs[0].weight_decay)
        optimizer = RateByRun(plain, gradients, decayed, "adamw", fused=on.type == "cuda")

        def gradient() -> None:
            logits = stack.logits(pixels[chosen][place])
            each = functional.cross_entropy(logits.flatten(0, 1), labels[chosen][place].flatten(), reduction="none")
            loss = each.view(len(runs), -1).mean(1)
            for name, found in zip(stack.p, torch.autograd.grad(loss.sum(), list(stack.p.values())), strict=True):
                gradients[name].copy_(found)
            self._loss.copy_(loss.detach())

        self._now = chosen, rates, corrections
        self._update = Replayed(
            lambda: optimizer.step(rates, corrections), on
        )  # rates and gradients are 0: changes nothing
        self._gradient = Replayed(gradient, on)

    def gradient(self, step: int) -> Tensor:
        """Losses ``(runs,)`` on the batch of a step."""
        self._now[0].copy_(self._order[step])
        self._gradient()
        return self._loss

    def update(self, step: int) -> None:
        self._now[1].copy_(self._rates[step])
        self._now[2].copy_(self._corrections[step])
        self._update()


def _outcome(losses: np.ndarray, records: VitRecords) -> dict[str, np.ndarray]:
    """Series, and when and whether runs diverged, by the rule of ``train``."""
    from criticality.laboratory.stacked import largest_spike

    runs, steps = losses.shape
    at = np.array([diverges_at(row) for row in losses])
    past = (at[:, None] >= 0) & (np.arange(steps) > at[:, None])
    losses = np.where(past, np.nan, losses)
    windows = np.append(losses, np.full((runs, -steps % _WINDOW), np.nan), axis=1).reshape(runs, -1, _WINDOW)
    finite = np.where(np.isfinite(losses), losses, -np.inf)
    found: dict[str, np.ndarray] = {
        "loss_series": windows.mean(2),
        "diverged": (at >= 0).astype(float),
        "diverged_at": at.astype(float),
        "first_loss": losses[:, 0],
        "last_loss": np.where(at >= 0, np.inf, losses[:, -_WINDOW:].mean(1)),
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
    if len(losses) > _WINDOW:
        sums = np.cumsum(np.append(0.0, np.nan_to_num(losses, posinf=0.0)))
        bad[_WINDOW:] |= (sums[_WINDOW + 1 :] - sums[1:-_WINDOW]) / _WINDOW > DIVERGED_FACTOR * losses[0]
    return int(np.argmax(bad)) if bad.any() else -1


@torch.no_grad()
def _accuracy(stack: VitStack, pixels: Tensor, labels: Tensor, diverged: np.ndarray) -> np.ndarray:
    right = torch.zeros(stack.runs, device=pixels.device)
    for x, y in zip(pixels.split(250), labels.split(250), strict=True):
        right += (stack.logits(x.expand(stack.runs, -1, -1)).argmax(-1) == y).sum(-1)
    found: np.ndarray = np.where(diverged > 0, _CHANCE, (right / len(labels)).double().cpu().numpy())
    return found


def _log_mean_square(x: Tensor) -> Tensor:
    return x.double().square().mean((1, 2)).log()


def _correlation(x: Tensor, images: int) -> Tensor:
    """Mean cosine of the streams, all tokens together, of two different images, ``(runs,)``."""
    unit = functional.normalize(x.view(len(x), images, -1).double(), dim=-1)
    return (unit.sum(1).square().sum(-1) - images) / (images * (images - 1))
