"""Moments of the residual stream, and the error of the logarithm of a mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from criticality.arguments import checked
from criticality.errors import ArgumentError
from criticality.shapes import Float


class Axes(NamedTuple):
    """Which axes of a stream count its samples and its channels; all others count tokens."""

    batch: int
    channels: int


class Moments(NamedTuple):
    """How large the stream is and how alike its tokens are: ``q``, ``p`` and ``correlation`` of ``criticality.schema``."""

    q: float
    p: float
    correlation: float


def by_token(stream: Float[Tensor, "..."], axes: Axes | None = None) -> Float[Tensor, "batch tokens width"]:
    """The stream with its samples first, its channels last and its tokens in one axis; one token where it has two axes."""
    x = stream if axes is None else stream.movedim((axes.batch, axes.channels), (0, -1))
    return x[:, None] if x.ndim == 2 else x[None] if x.ndim < 2 else x.flatten(1, -2)


def token_kernels(stream: Float[Tensor, "..."], axes: Axes | None) -> Float[np.ndarray, "batch tokens tokens"]:
    """``x_a . x_b / width`` of the tokens of each sample, float64."""
    x = by_token(stream.detach().double(), axes)
    kernels: np.ndarray = (x @ x.transpose(-1, -2) / x.shape[-1]).cpu().numpy()
    return kernels


def stream_moments(stream: Float[Tensor, "..."], axes: Axes | None = None) -> Moments:
    """How large a stream is and how alike its tokens are, averaged over the batch; costs one pass over the tensor.

    A stream with two axes, ``(batch, width)``, has one token: ``p`` and the correlation are nan.

    Args:
        stream: by default ``(batch, *tokens, width)``.
        axes: of the batch and of the channels, as not negative numbers.
    """
    x = by_token(stream.detach(), axes)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    tokens, width = x.shape[-2:]
    norms = torch.linalg.vector_norm(x, dim=-1)
    squares = norms.double().square()
    q = squares.mean().item() / width
    if tokens == 1:
        return Moments(q, float("nan"), float("nan"))
    pairs = tokens * (tokens - 1)
    inverse = norms.clamp_min(torch.finfo(norms.dtype).tiny).reciprocal()
    sums = torch.stack([torch.ones_like(norms), inverse], dim=1) @ x  # both in one pass over x
    sums = torch.linalg.vector_norm(sums, dim=-1).double().square()
    p = ((sums[:, 0] - squares.sum(-1)) / (pairs * width)).mean().item()
    correlation = ((sums[:, 1] - tokens) / pairs).mean().item()
    return Moments(q, p, correlation)


@checked
def log_mean(
    log_values: Float[np.ndarray, "samples ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The logarithm of the mean of numbers that are given by their logarithms, over the first axis, and its standard error.

    ``log mean_s exp(log_values)``, the error by the delta method, nan for one sample.
    """
    if np.size(log_values) == 0 or np.ndim(log_values) == 0:
        raise ArgumentError("log_values must hold a sample, and holds none")
    peak = log_values.max(axis=0)
    values = np.exp(log_values - peak)
    mean = values.mean(axis=0)
    return peak + np.log(mean), standard_error(values) / mean


def standard_error(values: Float[np.ndarray, "samples ..."]) -> Float[np.ndarray, "..."]:
    """The standard error of the mean over the first axis; nan for one sample."""
    if len(values) == 1:
        return np.full_like(values[0], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))
