"""Real text that ships with Python, as token numbers."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np

from criticality.arguments import Seed, Size, checked
from criticality.errors import ArgumentError
from criticality.shapes import Int


@cache
def _source() -> bytes:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))


@checked
def source_bytes(sequences: Size, tokens: Size, seed: Seed = 0) -> Int[np.ndarray, "sequences tokens"]:
    """Stretches of the Python standard library's own source files, one byte to a token (numbers below 256).

    Raises:
        ValueError: fewer than one sequence or token, or more tokens than there are.
    """
    text = _source()
    if tokens >= len(text):
        raise ArgumentError(f"tokens={tokens!r} must be below {len(text)}, the bytes that there are")
    starts = np.random.default_rng([seed, 7]).integers(0, len(text) - tokens, sequences)
    return np.array([np.frombuffer(text, np.uint8, tokens, int(start)) for start in starts], dtype=np.int64)


def standard_library(limit: int) -> Int[np.ndarray, " bytes"]:
    """The first ``limit`` bytes of those files, in alphabetical order."""
    return np.frombuffer(_source(), np.uint8, min(limit, len(_source()))).copy()


@checked
def random_tokens(
    sequences: Size, tokens: Size, vocabulary: Size, seed: Seed = 0
) -> Int[np.ndarray, "sequences tokens"]:
    """Independent uniform token numbers below ``vocabulary``."""
    return np.random.default_rng([seed, 8]).integers(0, vocabulary, (sequences, tokens))
