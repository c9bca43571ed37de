"""Expected kernels at the start of the stream: embeddings, patches, positions, and what is done to them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.memory import require_memory
from criticality.reader.moments import second_moment
from criticality.reader.sublayers import norm_of
from criticality.reader.terms import (
    Applied,
    Given,
    Joined,
    Normalized,
    Picked,
    Projected,
    Seen,
    Sum,
    Table,
    Term,
    closed,
    rows_of,
)
from criticality.theory import TokenKernel


def start_kernels(seen: Seen, samples: int) -> list[TokenKernel]:
    """``E K_ab`` over the random weights, one kernel for each sample, from fields that are read back to the inputs.

    Rows of a parameter are taken for independent, with mean 0: position tables and class tokens.

    Raises:
        UndescribedError: what is between the inputs and the stream is more than sums, projections, norms and functions.
    """
    factor, inner = closed(seen)
    tokens, _ = rows_of(inner)
    require_memory(8.0 * tokens.numel() ** 2, f"kernel of {samples} samples of {tokens.numel() // samples} tokens")
    places = tokens.reshape(samples, -1).numpy()
    whole = factor**2 * _kernel(inner.base, {})
    return [TokenKernel.of(whole[np.ix_(rows, rows)]) for rows in places]


def _kernel(term: Term, known: dict[int, np.ndarray]) -> np.ndarray:
    if id(term) not in known:
        known[id(term)] = _computed(term, known)
    return known[id(term)]


def _computed(term: Term, known: dict[int, np.ndarray]) -> np.ndarray:
    if isinstance(term, Given):
        numbers = term.numbers.numpy()
        return np.asarray(numbers @ numbers.T / term.channels)
    if isinstance(term, Table):
        same = _equal(term.labels)
        return second_moment(term.weight) * same
    if isinstance(term, Projected):
        bias = sum((one.variance() for one in term.bias), 0.0)
        return term.weight.variance() * _kernel(term.inner, known) + bias
    if isinstance(term, (Normalized, Applied)):
        return norm_of(term).forward(TokenKernel(_kernel(term.inner, known))).entries
    if isinstance(term, Sum):
        return np.asarray(sum(factor**2 * _kernel(part, known) for factor, part in term.parts))
    if isinstance(term, Picked):
        rows = term.tokens.numpy()
        return _kernel(term.inner, known)[np.ix_(rows, rows)]
    if isinstance(term, Joined):
        found, start = np.zeros((term.rows, term.rows)), 0
        for factor, part in term.parts:
            end = start + part.rows
            found[start:end, start:end] = factor**2 * _kernel(part, known)
            start = end
        return found
    raise UndescribedError(
        f"the stream must start from embeddings, projections and norms, and a {type(term).__name__} is none"
    )


def _equal(labels: Tensor) -> np.ndarray:
    same = (labels[:, None] == labels) & (labels >= 0)[:, None]
    return np.asarray(same.to(torch.float64).numpy())
