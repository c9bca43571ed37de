"""Random numbers that depend on what they are for and on nothing else."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from criticality.shapes import Shaped
from criticality.weightless.entries import SAMPLE, standard_normal
from criticality.weightless.law import Law

SIGNIFICANT = 6.0

LATTICE = 10367
"""Of the odd factors that were tried the one whose pairs come closest to independent numbers, by their moments."""

_CHUNK = 2**17
"""Entries that are chosen at a time: what is written between stays in the cache."""


def generator(seed: tuple[object, ...], device: torch.device) -> torch.Generator:
    """A generator of its own for ``seed``: any parts whose ``repr`` says what they are, in any process."""
    return torch.Generator(device).manual_seed(_number(seed))


def normal(shape: tuple[int, ...], seed: tuple[object, ...], like: Tensor, std: float = 1.0) -> Tensor:
    """Normal numbers of ``shape`` and mean zero, in the precision and on the device of ``like``.

    On the CPU each is one of 16,384 quantiles, at a quarter of the time of torch's generator: they come in pairs, of a
    lattice of as many pairs, of which moments up to the sixth order are those of independent numbers within 1e-3.
    """
    if like.device.type == "cpu":
        pairs = _normal_pairs(like.dtype)
        pairs = (pairs.view(like.dtype) * std).view(pairs.dtype)
        return _chosen(pairs, (-(-prod(shape) // 2),), seed).view(like.dtype)[: prod(shape)].view(shape)
    return torch.randn(shape, generator=generator(seed, like.device), dtype=like.dtype, device=like.device).mul_(std)


def entries(law: Law, shape: tuple[int, ...], seed: tuple[object, ...], like: Tensor) -> Tensor:
    """Independent entries of ``shape``, each one of the law's sample."""
    sample = law.sample.to(like)
    if len(sample) == 1:
        return sample.expand(shape).clone()
    if like.device.type == "cpu" and len(sample) == SAMPLE:
        return _chosen(sample, shape, seed)
    return sample[torch.randint(len(sample), shape, generator=generator(seed, like.device), device=like.device)]


@lru_cache(maxsize=4)
def _normal_pairs(dtype: torch.dtype) -> Shaped[Tensor, " n"]:
    """Pairs of quantiles on a lattice of the square; one pair is one entry, of twice the bits of ``dtype``."""
    first = standard_normal().to(dtype).sort().values
    second = first[(torch.arange(SAMPLE, device="cpu") * LATTICE + LATTICE // 2) % SAMPLE]
    wide = torch.float64 if dtype.itemsize == 4 else torch.complex128
    return torch.stack([first, second], dim=1).view(wide).flatten()


def _chosen(sample: Shaped[Tensor, " n"], shape: tuple[int, ...], seed: tuple[object, ...]) -> Tensor:
    """Entries of a sample of 2^14, each chosen by as many bits of a stream of its own."""
    bits = np.random.SFC64(_number(seed))
    out = torch.empty(prod(shape), dtype=sample.dtype, device="cpu")
    for part in out.split(_CHUNK):
        words = torch.as_tensor(bits.random_raw(-(-len(part) // 4)).view(np.int16), device="cpu")[: len(part)]
        torch.index_select(sample, 0, words.bitwise_and_(SAMPLE - 1).int(), out=part)
    return out.view(shape)


def _number(seed: tuple[object, ...]) -> int:
    return int.from_bytes(blake2b(repr(seed).encode(), digest_size=8).digest(), "little") >> 1


def significant_mean(law: Law) -> float:
    """``E W``, or zero where the sample's mean is what chance makes of a law of mean zero.

    A sample of ``n`` entries of mean zero has a mean of ``sqrt(Var W / n)``; taken for a mean of the weight it would
    add ``E W (sum_i x_i)``
    to every output, which grows with the width.
    """
    chance = sqrt(law.variance / len(law.values))
    return law.mean if abs(law.mean) > SIGNIFICANT * chance else 0.0
