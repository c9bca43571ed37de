"""What a training in a stack is: the article's recursion or Doshi's plane, and the stack of several at initialization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from criticality.arguments import Count, Depth, NotNegative, Positive, Seed, Size, check_choice, check_fields
from criticality.errors import ArgumentError
from criticality.laboratory.names import STACKED
from criticality.laboratory.recursion import ALIASES, LAYER_NORMS, POINTWISE, Shape, Stack
from criticality.laboratory.steps import require_alike


@dataclass(frozen=True)
class ResidualRun:
    """What is trained: the article's recursion (``fashion-resnet``), or Doshi's plane (``fashion-mlp``).

    Attributes:
        task: ``fashion-resnet``: standardized pixels, norms with gamma and beta, a last norm.  ``fashion-mlp``: pixels in [0, 1],
            ``x <- mu x + W phi(x) + b`` or ``W phi(LN x)``, nothing learned but weights and biases (Doshi, He, Gromov 2023).
        norm: ``ln``, ``rms``, ``none``, ``dyt``, ``derf``, ``power-1/2``, ``power-2/3``, ``power-3/4``.
        alpha: of a pointwise norm; with ``schedule`` it is c, and ``alpha_l = c / sqrt(K_l)``.
        activation: after the norm: ``relu``, ``gelu``, ``tanh``, ``erf``, or ``""``.
        schedule: whether alpha follows the depth.
        mu: of the skip path, 0 for a plain network.
        sigma_w, sigma_b: weights are ``N(0, sigma_w^2 / width)``, biases ``N(0, sigma_b^2)``.
        depth, width: residual layers and channels.
        optimizer: ``adamw`` (0.9, 0.999; decay on matrices) or ``sgd`` (plain).
        learning_rate: peak.
        weight_decay: of AdamW.
        warm_up: steps of linear growth of the rate.
        decay: ``cosine`` to 0, or ``constant``.
        steps, batch: optimizer steps, and images in each.
        seeds: how many runs, with seeds ``first_seed, first_seed + 1, ...``: of weights and of the order of the data.
        first_seed: see ``seeds``.
    """

    task: str = "fashion-resnet"
    norm: str = "dyt"
    alpha: Positive | None = None
    activation: str = ""
    schedule: bool = False
    mu: NotNegative = 1.0
    sigma_w: NotNegative = 1.0
    sigma_b: NotNegative = 0.0
    depth: Depth = 32
    width: Size = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    warm_up: Seed = 0
    decay: Literal["cosine", "constant"] = "cosine"
    steps: Count = 1500
    batch: Size = 128
    seeds: Size = 3
    first_seed: Seed = 0

    def __post_init__(self) -> None:
        pointwise = sorted({*POINTWISE, *ALIASES})
        for name, value, allowed in (
            ("task", self.task, STACKED),
            ("norm", self.norm, (*LAYER_NORMS, "none", *pointwise)),
            ("activation", self.activation, ("", *pointwise)),
        ):
            check_choice(name, value, allowed)
        check_fields(self)
        if self.scaled and self.alpha is None:
            raise ArgumentError(f"alpha=None must be a number with norm={self.norm!r}")
        if not self.scaled and (self.alpha is not None or self.schedule):
            raise ArgumentError(
                f"alpha={self.alpha!r} and schedule={self.schedule!r} must be left out with {self.norm!r}"
            )
        if self.scaled and self.activation:
            raise ArgumentError(f"activation={self.activation!r} must be '' with the pointwise norm {self.norm!r}")

    @property
    def scaled(self) -> bool:
        """Whether the norm is a pointwise function with an alpha."""
        return self.norm not in (*LAYER_NORMS, "none")

    def alphas(self) -> list[float]:
        """Of the ``depth`` norms of the layers and the last one; empty without."""
        if not self.scaled or self.alpha is None:
            return []
        if not self.schedule:
            return [self.alpha] * (self.depth + 1)
        value, _ = POINTWISE[ALIASES.get(self.norm, self.norm)]
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        square = value(torch.from_numpy(self.alpha * nodes)).square().numpy()
        gain = self.sigma_w**2 * float(weights @ square / weights.sum()) + self.sigma_b**2
        return [self.alpha / math.sqrt(1 + gain * layer) for layer in range(self.depth + 1)]

    def stack(self, dtype: torch.dtype = torch.float32) -> Stack:
        """The networks at initialization."""
        return stack_of([self], dtype)

    @property
    def seed_numbers(self) -> range:
        """Of the runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step from 0 on."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warm_up))
        if self.decay == "constant":
            return rate
        return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def stack_of(
    runs: Sequence[ResidualRun], dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Stack:
    """The networks of several runs at initialization, all seeds of one after those of the other.

    Raises:
        CriticalityError: runs that differ in more than alpha, the scales of weights and biases, and the rate.
    """
    require_alike(runs, APART)
    first = runs[0]
    shape = Shape(
        runs=sum(run.seeds for run in runs),
        depth=first.depth,
        width=first.width,
        inputs=784,
        classes=10,
        norm=first.norm,
        activation=first.activation or None,
        mu=first.mu,
        affine=first.task == "fashion-resnet",
    )
    stack = Stack(shape, dtype, device)
    each = [run for run in runs for _ in range(run.seeds)]
    alphas = {run: run.alphas() for run in runs}
    stack.initialize(
        [seed for run in runs for seed in run.seed_numbers],
        [run.sigma_w for run in each],
        [run.sigma_b for run in each],
        [alphas[run] for run in each],
    )
    return stack


APART = ("alpha", "schedule", "sigma_w", "sigma_b", "learning_rate", "warm_up", "decay", "seeds", "first_seed")
