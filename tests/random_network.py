"""Descriptions of the theory as real random networks of finite width, the slow and simple truth of many tests.

``step`` draws weights for one sub-layer, runs it on a stream with a given kernel, and sends a gradient with a given
backward kernel back through it by autograd; what comes out, averaged over draws, is what the theory must say.  All in single
precision, which is quicker to draw and far finer than what draws leave open.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from criticality.models.normalizers import torch_function
from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Attention,
    GatedMLP,
    HeadNorm,
    LayerNorm,
    Linear,
    NoNorm,
    Normed,
    Parallel,
    PointwiseNorm,
    RMSNorm,
    Rotary,
    Sublayer,
)


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


def linear(x: Tensor, width: int, law: Linear) -> Tensor:
    fan_in = x.shape[-1]
    weight = torch.randn(fan_in, width, dtype=x.dtype) * (law.weight_variance / fan_in) ** 0.5
    return x @ weight + torch.randn(width, dtype=x.dtype) * law.bias_variance**0.5


def apply_branch(branch: object, x: Tensor) -> Tensor:
    width = x.shape[-1]
    if isinstance(branch, Linear):
        return linear(x, width, branch)
    if isinstance(branch, MLP):
        hidden = linear(x, int(branch.ratio * width), branch.up)
        hidden = apply_pointwise(branch.activation, hidden)
        return linear(hidden, width, branch.down)
    if isinstance(branch, GatedMLP):
        hidden = int(branch.ratio * width)
        gate = apply_pointwise(branch.activation, linear(x, hidden, branch.gate))
        up = linear(x, hidden, branch.up)
        return linear(gate * up, width, branch.down)
    if isinstance(branch, Parallel):
        return sum((apply_branch(part, x) for part in branch.branches), torch.zeros_like(x))
    if isinstance(branch, Normed):
        return apply_branch(branch.branch, apply_norm(branch.norm, x))
    assert isinstance(branch, Attention)
    return apply_attention(branch, x)


def apply_attention(branch: Attention, x: Tensor) -> Tensor:
    """Attention with tokens first, as the models write it: heads, grouped keys and values, rotation, norm, mask."""
    tokens, width = x.shape
    head_dim = branch.head_dim or width // branch.heads
    groups = branch.key_value_heads or branch.heads

    def split(heads: int, law: Linear) -> Tensor:
        return linear(x, heads * head_dim, law).reshape(tokens, heads, head_dim).transpose(0, 1)

    query = split(branch.heads, branch.query)
    key = split(groups, branch.key)
    value = split(groups, branch.value)
    query, key = head_norm(branch.query_norm, query), head_norm(branch.key_norm, key)
    query, key = rotate(branch.rotary, query), rotate(branch.rotary, key)
    key, value = (t.repeat_interleave(branch.heads // groups, 0) for t in (key, value))
    scores = branch.score_scale * query @ key.transpose(1, 2) / head_dim**0.5
    if branch.causal:
        age = torch.arange(tokens)[:, None] - torch.arange(tokens)
        scores = scores.masked_fill((age < 0) | (age >= (branch.window or tokens)), -torch.inf)
    mixed = (torch.softmax(scores, -1) @ value).transpose(0, 1).reshape(tokens, -1)
    return linear(mixed, width, branch.output)


def head_norm(norm: HeadNorm | None, x: Tensor) -> Tensor:
    if norm is None:
        return x
    x = x - x.mean(-1, keepdim=True) if norm.centred else x
    return norm.gamma * x * (x.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt()


def rotate(rotary: Rotary | None, x: Tensor) -> Tensor:
    """Neighbouring channels as complex numbers, another pairing than the library's."""
    if rotary is None:
        return x
    angles = torch.from_numpy(rotary.angles(x.shape[1])).to(x.dtype)
    turned = 2 * angles.shape[1]
    pairs = torch.view_as_complex(x[..., :turned].reshape(*x.shape[:-1], -1, 2).contiguous())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([torch.view_as_real(pairs).flatten(-2), x[..., turned:]], -1)


def apply_sublayer(sublayer: Sublayer, x: Tensor) -> Tensor:
    if sublayer.placement == "post":
        return apply_norm(sublayer.norm, sublayer.skip_scale * x + sublayer.scale * apply_branch(sublayer.branch, x))
    output = apply_branch(sublayer.branch, apply_norm(sublayer.norm, x))
    if sublayer.placement == "sandwich":
        output = apply_norm(sublayer.output_norm, output)
    return x + sublayer.scale * output


def gaussian_rows(kernel: np.ndarray, width: int) -> Tensor:
    """``(tokens, width)`` whose Gram matrix over ``width`` is ``kernel`` exactly, directions random."""
    tokens = len(kernel)
    directions, _ = torch.linalg.qr(torch.randn(width, tokens, dtype=torch.float64))
    return (torch.from_numpy(np.linalg.cholesky(kernel)) @ directions.T * width**0.5).float()


def step(
    sublayer: Sublayer, kernel: np.ndarray, gradient: np.ndarray, width: int, draws: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means over draws of the kernel after and the backward kernel before the sub-layer, and their standard errors."""
    torch.manual_seed(seed)
    after, before = [], []
    for _ in range(draws):
        x = gaussian_rows(kernel, width).requires_grad_()
        y = apply_sublayer(sublayer, x)
        delta = torch.from_numpy(np.linalg.cholesky(gradient)).float() @ torch.randn(len(kernel), width)
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
