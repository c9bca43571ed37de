"""Random states of everything that a model's own code may draw from: torch, numpy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from criticality.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy_module("numpy"), lazy_module("torch")


@contextmanager
def forked(devices: Sequence[int] | None = None) -> Iterator[None]:
    """All random states are after it as they were before; of torch those of the CPU and of these cards [default: all]."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def seed_everything(seed: int) -> None:
    """Start all random numbers anew."""
    seed = int(seed)  # Python's takes no numpy integer
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
