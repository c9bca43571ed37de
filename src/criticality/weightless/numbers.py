"""Random numbers that depend on what they are for and on nothing else."""

from __future__ import annotations

from hashlib import blake2b
from math import sqrt

import torch
from torch import Tensor

from criticality.weightless.law import Law

SIGNIFICANT = 6.0


def generator(seed: tuple[object, ...], device: torch.device) -> torch.Generator:
    """A generator of its own for ``seed``: any parts whose ``repr`` says what they are, in any process."""
    number = int.from_bytes(blake2b(repr(seed).encode(), digest_size=8).digest(), "little") >> 1
    return torch.Generator(device).manual_seed(number)


def normal(shape: tuple[int, ...], seed: tuple[object, ...], like: Tensor) -> Tensor:
    """Standard normal numbers of ``shape``, in the precision and on the device of ``like``."""
    return torch.randn(shape, generator=generator(seed, like.device), dtype=like.dtype, device=like.device)


def entries(law: Law, shape: tuple[int, ...], seed: tuple[object, ...], like: Tensor) -> Tensor:
    """Independent entries of ``shape``, each one of the law's sample."""
    sample = law.sample.to(like)
    if len(sample) == 1:
        return sample.expand(shape).clone()
    return sample[torch.randint(len(sample), shape, generator=generator(seed, like.device), device=like.device)]


def significant_mean(law: Law) -> float:
    """``E W``, or zero where the sample's mean is what chance makes of a law of mean zero.

    A sample of ``n`` entries of mean zero has a mean of ``sqrt(Var W / n)``; taken for a mean of the weight it would
    add ``E W (sum_i x_i)``
    to every output, which grows with the width.
    """
    chance = sqrt(law.variance / len(law.sample))
    return law.mean if abs(law.mean) > SIGNIFICANT * chance else 0.0
