"""Descriptions of the theory as real random networks of finite width, the slow and simple truth of many tests.

``step`` draws weights for one sub-layer, runs it on a stream with a given kernel, and sends a gradient with a given
backward kernel back through it by autograd; what comes out, averaged over draws, is what the theory must say.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from criticality.models.normalizers import torch_function
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Linear, NoNorm, PointwiseNorm, RMSNorm, Sublayer


def apply_pointwise(pointwise: Pointwise, x: Tensor) -> Tensor:
    u = pointwise.alpha * x + pointwise.shift
    return pointwise.gamma * torch_function(pointwise.phi.name)(u) + pointwise.beta


def apply_norm(norm: object, x: Tensor) -> Tensor:
    """Norm over the last axis, the channels."""
    if isinstance(norm, NoNorm):
        return x
    if isinstance(norm, PointwiseNorm):
        return apply_pointwise(norm.pointwise, x)
    assert isinstance(norm, LayerNorm)
    centred = x if isinstance(norm, RMSNorm) else x - x.mean(-1, keepdim=True)
    return norm.gamma * centred * (centred.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() + norm.beta


def linear(x: Tensor, width: int, variance: float, bias_variance: float = 0.0) -> Tensor:
    fan_in = x.shape[-1]
    weight = torch.randn(fan_in, width, dtype=x.dtype) * (variance / fan_in) ** 0.5
    return x @ weight + torch.randn(width, dtype=x.dtype) * bias_variance**0.5


def apply_branch(branch: object, x: Tensor) -> Tensor:
    width = x.shape[-1]
    if isinstance(branch, Linear):
        return linear(x, width, branch.weight_variance, branch.bias_variance)
    if isinstance(branch, MLP):
        hidden = linear(x, int(branch.ratio * width), branch.in_variance, branch.in_bias_variance)
        hidden = apply_pointwise(branch.activation, hidden)
        return linear(hidden, width, branch.out_variance, branch.out_bias_variance)
    assert isinstance(branch, Attention)
    heads, tokens = branch.heads, x.shape[0]

    def split(variance: float, bias: float) -> Tensor:
        return linear(x, width, variance, bias).reshape(tokens, heads, -1).transpose(0, 1)

    query = split(branch.query_variance, branch.query_bias_variance)
    key = split(branch.key_variance, branch.key_bias_variance)
    value = split(branch.value_variance, branch.value_bias_variance)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    mixed = (torch.softmax(scores, -1) @ value).transpose(0, 1).reshape(tokens, width)
    return linear(mixed, width, branch.output_variance, branch.output_bias_variance)


def apply_sublayer(sublayer: Sublayer, x: Tensor) -> Tensor:
    if sublayer.placement == "post":
        return apply_norm(sublayer.norm, x + sublayer.scale * apply_branch(sublayer.branch, x))
    output = apply_branch(sublayer.branch, apply_norm(sublayer.norm, x))
    if sublayer.placement == "sandwich":
        output = apply_norm(sublayer.output_norm, output)
    return x + sublayer.scale * output


def gaussian_rows(kernel: np.ndarray, width: int) -> Tensor:
    """``(tokens, width)`` whose Gram matrix over ``width`` is ``kernel`` exactly, directions random."""
    tokens = len(kernel)
    directions, _ = torch.linalg.qr(torch.randn(width, tokens, dtype=torch.float64))
    return torch.from_numpy(np.linalg.cholesky(kernel)) @ directions.T * width**0.5


def step(
    sublayer: Sublayer, kernel: np.ndarray, gradient: np.ndarray, width: int, draws: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means over draws of the kernel after and the backward kernel before the sub-layer, and their standard errors."""
    torch.manual_seed(seed)
    after, before = [], []
    for _ in range(draws):
        x = gaussian_rows(kernel, width).requires_grad_()
        y = apply_sublayer(sublayer, x)
        delta = torch.from_numpy(np.linalg.cholesky(gradient)) @ torch.randn(len(kernel), width, dtype=torch.float64)
        (back,) = torch.autograd.grad(y, x, delta)
        after.append((y @ y.T / width).detach().numpy())
        before.append((back @ back.T / width).numpy())
    count = draws**0.5
    return (
        np.mean(after, axis=0),
        np.std(after, axis=0, ddof=1) / count,
        np.mean(before, axis=0),
        np.std(before, axis=0, ddof=1) / count,
    )
