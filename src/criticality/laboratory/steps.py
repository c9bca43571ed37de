"""One step of a stack of trainings: gradient and update of all runs, each at its own rate; on a card a graph that is replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from criticality.errors import ArgumentError

Update = Callable[..., None]

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


def adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: Tensor, decay: Tensor, corrections: Tensor) -> None:
    """AdamW in place (Loshchilov, Hutter 2019), as torch's, with a rate that is broadcast.

    Args:
        p, g, m, v: parameters, gradient and its two moments, of one shape.
        rate, decay: broadcast against them; ``decay`` is the product of rate and weight decay.
        corrections: ``(2,)``, ``1 - beta^t`` of both moments.
    """
    m.lerp_(g, 1 - ADAM_BETAS[0])
    v.mul_(ADAM_BETAS[1]).addcmul_(g, g, value=1 - ADAM_BETAS[1])
    root = v.sqrt().div_(corrections[1].sqrt()).add_(ADAM_EPSILON)
    p.mul_(1 - decay).sub_(rate / corrections[0] * (m / root))


def sgd(p: Tensor, g: Tensor, rate: Tensor) -> None:
    """``p <- p - rate g`` in place."""
    p.sub_(rate * g)


class RateByRun:
    """AdamW, or plain gradient descent, of many runs.

    Args:
        parameters, gradients: by name, the axis of runs the third from the end, ``(..., runs, a, b)``.
        decayed: weight decay by name, 0 where it is left out.
        optimizer: ``adamw`` or ``sgd`` (without decay).
        fused: whether updates are compiled, as pays on a card.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        decayed: Mapping[str, float],
        optimizer: str,
        fused: bool,
    ):
        self._parts = [(p, gradients[name], decayed.get(name, 0.0)) for name, p in parameters.items()]
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p, _, _ in self._parts]
        self._adam = optimizer == "adamw"
        self._update: Update = adamw if self._adam else sgd
        if fused:
            self._update = torch.compile(self._update, dynamic=True)

    def step(self, rates: Tensor, corrections: Tensor) -> None:
        """Of all runs at ``rates`` ``(runs,)``; ``corrections`` as in ``adamw``."""
        of_run = rates.view(-1, 1, 1)
        for (p, g, decay), (m, v) in zip(self._parts, self._moments, strict=True):
            if self._adam:
                self._update(p, g, m, v, of_run, of_run * decay, corrections)
            else:
                self._update(p, g, of_run)


def corrections_at(step: int) -> list[float]:
    """``1 - beta^t`` of both moments for a step from 0 on."""
    return [1 - beta ** (step + 1) for beta in ADAM_BETAS]


class Replayed:
    """A function without arguments that reads and writes tensors which stay where they are; on a card it is recorded once as a
    CUDA graph and replayed, so that a step is one launch instead of thousands."""

    def __init__(self, function: Callable[[], Any], device: torch.device, warm_up: int = 2):
        self._call: Callable[[], Any] = function
        self._kept = function  # the graph holds addresses of what it closes over, not the tensors
        if device.type != "cuda":
            return
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(warm_up):
                function()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        self._call = graph.replay

    def __call__(self) -> None:
        self._call()


class Batches:
    """Training images of every step, in the order of each run's seed.

    Args:
        seeds: of the order of the data, one for each run.
        steps, size: of the training, and images in a step.
        pixels, labels: of all images, on the device.
    """

    def __init__(self, seeds: Sequence[int], steps: int, size: int, pixels: Tensor, labels: Tensor):
        different = list(dict.fromkeys(seeds))
        draws = [torch.Generator().manual_seed(seed) for seed in different]
        order = [
            torch.stack([torch.randint(0, len(labels), (size,), generator=draw) for draw in draws])
            for _ in range(steps)
        ]
        self._order = torch.stack(order).to(labels.device)  # (steps, different, size)
        self._place = torch.tensor([different.index(seed) for seed in seeds], device=labels.device)
        self._pixels, self._labels, self._now = pixels, labels, self._order[0].clone()

    def turn_to(self, step: int) -> None:
        self._now.copy_(self._order[step])

    def read(self) -> tuple[Tensor, Tensor]:
        """Pixels ``(runs, size, inputs)`` and labels ``(runs, size)``."""
        return self._pixels[self._now][self._place], self._labels[self._now][self._place]


class Updates:
    """The update of each step by ``RateByRun``, replayed on a card.

    Args:
        optimizer: whose gradients are 0 now, so that what is run to record the graph changes nothing.
        rates: ``(steps, runs)``, on the device.
    """

    def __init__(self, optimizer: RateByRun, rates: Tensor):
        self._rates = rates
        self._corrections = torch.tensor([corrections_at(step) for step in range(len(rates))], device=rates.device)
        self._now = torch.zeros_like(rates[0]), self._corrections[0].clone()
        self._update = Replayed(lambda: optimizer.step(*self._now), rates.device)

    def __call__(self, step: int) -> None:
        for now, table in zip(self._now, (self._rates, self._corrections), strict=True):
            now.copy_(table[step])
        self._update()


def require_alike(runs: Sequence[Any], apart: Collection[str]) -> None:
    """Refuse runs, dataclasses of one kind, that differ in a field which is not ``apart``.

    Raises:
        ArgumentError: names the field and the two values.
    """
    for run in runs[1:]:
        for name, value in asdict(runs[0]).items():
            if name not in apart and value != getattr(run, name):
                raise ArgumentError(
                    f"runs must agree in {name} to be trained together, and have {name}={value!r} and"
                    f" {name}={getattr(run, name)!r}"
                )


def rates_of(runs: Sequence[Any], copies: Sequence[int], steps: int) -> Tensor:
    """``(steps, sum(copies))`` float32: each run's ``rate_at``, for as many as are alike in it."""
    table = [
        [rate for run, count in zip(runs, copies, strict=True) for rate in [run.rate_at(step)] * count]
        for step in range(steps)
    ]
    return torch.tensor(table, dtype=torch.float32)
