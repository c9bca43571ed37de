"""Architectures: a network is a sequence of sub-layers on one residual stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np

from criticality.arguments import Count, Depth, Finite, Positive, Scale, check, check_fields, checked, shown
from criticality.errors import ArgumentError, UndescribedError
from criticality.theory.attention import ScoreSampling
from criticality.theory.branches import Branch, Linear, entry_norms
from criticality.theory.norms import K, NoNorm, Norm
from criticality.theory.parts import DESCEND, rebuilt


@dataclass(frozen=True)
class Sublayer:
    """One norm, one branch and how they join the residual stream, ``scale`` being ``lambda`` (LayerScale or constant).

    ``placement``: ``"pre"`` ``x + scale branch(norm(x))``; ``"post"`` ``norm(skip_scale x + scale branch(x))``, with
    ``skip_scale`` for DeepNorm (arXiv:2203.00555); ``"sandwich"`` ``x + scale output_norm(branch(norm(x)))``.

    After a post-norm that is a pointwise function the stream is not Gaussian; the theory takes it for Gaussian there,
    which is good while the function is nearly linear on it (docs/theory, section 4).
    """

    branch: Branch
    norm: Norm = field(default_factory=NoNorm)
    scale: Finite = 1.0
    placement: Literal["pre", "post", "sandwich"] = "pre"
    output_norm: Norm = field(default_factory=NoNorm)
    skip_scale: Finite = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.skip_scale != 1.0 and self.placement != "post":
            raise ArgumentError(f"skip_scale={self.skip_scale!r} of Sublayer must come with placement='post'")

    @property
    def in_flow(self) -> tuple[str, ...]:
        """Fields that values go through, in their order."""
        return ("branch", "norm") if self.placement == "post" else ("norm", "branch", "output_norm")

    @property
    def entry_norms(self) -> tuple[Norm, ...]:
        """Norms through which the branches see the stream: the sub-layer's, or where it has none those of its branches."""
        return entry_norms(self.branch) if isinstance(self.norm, NoNorm) else (self.norm,)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        """Kernel of the stream after the sub-layer."""
        return self.joined(kernel, self.passed(kernel, sampling)[1])

    def passed(self, kernel: K, sampling: ScoreSampling) -> tuple[K, K]:
        """Kernels of the branch's input and output."""
        entered = self._entered(kernel)
        return entered, self.branch.forward(entered, sampling)

    def joined(self, kernel: K, output: K) -> K:
        """Kernel of the stream after the sub-layer, from that before it and that of the branch's output."""
        if self.placement == "post":
            return self.norm.forward(self._before_norm(kernel, output))
        if self.placement == "sandwich":
            output = self.output_norm.forward(output)
        return kernel + (output if self.scale == 1.0 else output.affine(self.scale**2))

    def backward(
        self, kernel: K, gradient: K, sampling: ScoreSampling, entered: K | None = None, output: K | None = None
    ) -> K:
        """Backward kernel before the sub-layer, from the stream's kernel before it and the backward kernel after.

        What was kept of ``passed`` is not computed again; a pre-norm sub-layer has no use for the output.
        """
        entered = entered or self._entered(kernel)
        if self.placement == "pre":
            at_branch = self.branch.backward(entered, gradient, sampling).affine(self.scale**2)
            return gradient + self.norm.factor(kernel) * at_branch
        output = output or self.branch.forward(entered, sampling)
        if self.placement == "post":
            gradient = self.norm.factor(self._before_norm(kernel, output)) * gradient
            at_branch = self.branch.backward(entered, gradient, sampling).affine(self.scale**2)
            return gradient.affine(self.skip_scale**2) + at_branch
        at_output = self.output_norm.factor(output) * gradient
        at_branch = self.branch.backward(entered, at_output, sampling).affine(self.scale**2)
        return gradient + self.norm.factor(kernel) * at_branch

    def _entered(self, kernel: K) -> K:
        return kernel if self.placement == "post" else self.norm.forward(kernel)

    def _before_norm(self, kernel: K, output: K) -> K:
        """Kernel of skip and branch before a post-norm."""
        return kernel.affine(self.skip_scale**2) + output.affine(self.scale**2)


@dataclass(frozen=True)
class Network:
    """Sub-layers in order, ``sublayers_per_block`` of them to a block (two for a transformer)."""

    sublayers: tuple[Sublayer, ...]
    sublayers_per_block: Count = 1
    name: str = "network"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sublayers:
            raise ArgumentError("sublayers=() of Network must hold at least one Sublayer")
        if len(self.sublayers) % self.sublayers_per_block:
            raise ArgumentError(
                f"sublayers_per_block={self.sublayers_per_block!r} of Network must divide its"
                f" {len(self.sublayers)} sublayers"
            )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.sublayers) // self.sublayers_per_block

    @property
    def last_block(self) -> tuple[Sublayer, ...]:
        """Sub-layers of the last block."""
        return self.sublayers[-self.sublayers_per_block :]

    @property
    def block_of_boundary(self) -> tuple[float, ...]:
        """Position of each sub-layer boundary in blocks: 0, 1/2, 1, ... for a transformer."""
        return tuple(i / self.sublayers_per_block for i in range(len(self.sublayers) + 1))


@checked
def resnet(norm: Norm, depth: Depth, weight_variance: Scale = 1.0, bias_variance: Scale = 0.0) -> Network:
    """The one-branch residual network ``x <- x + W norm(x) + b`` (docs/theory, section 5).

    Raises:
        ValueError: ``depth`` below 1, or a negative variance.
    """
    sublayer = Sublayer(Linear(weight_variance, bias_variance), norm)
    return Network((sublayer,) * int(depth), name="resnet")


@checked
def transformer(norm: Norm, attention: Branch, mlp: Branch, depth: Depth, scale: Finite = 1.0) -> Network:
    """Pre-norm blocks of attention and MLP, all alike.

    Raises:
        ValueError: ``depth`` below 1.
    """
    block = (Sublayer(attention, norm, scale), Sublayer(mlp, norm, scale))
    return Network(block * int(depth), sublayers_per_block=2, name="transformer")


@checked
def scale_weights(network: Network, gain: Positive) -> Network:
    """The network with every weight (not bias, norm or LayerScale) multiplied by ``gain``.

    Raises:
        ValueError: a ``gain`` that is not finite and positive.
    """

    def visit(part: Any) -> Any:
        if not isinstance(part, Linear):
            return DESCEND
        return replace(part, weight_variance=part.weight_variance * gain**2)

    return cast(Network, rebuilt(visit, network))


T = TypeVar("T")


@checked
def mean_network(networks: Sequence[T]) -> T:
    """The network whose numbers are the means over ``networks``, which must be alike in everything else.

    For networks read from several seeds: every variance is averaged over seeds.

    Raises:
        ValueError: networks that differ in more than their numbers.
    """
    check(Sequence[Network | Sublayer], "networks", networks)
    return cast(T, rebuilt(_mean, *networks))


def _mean(*parts: Any) -> Any:
    first = parts[0]
    alike = all(type(other) is type(first) for other in parts)
    if alike and isinstance(first, float):
        return math.fsum(parts) / len(parts)
    if alike and isinstance(first, tuple):
        alike = len({len(part) for part in parts}) == 1
    elif alike and not is_dataclass(first):
        alike = all(np.array_equal(other, first) for other in parts)
    if not alike:
        raise UndescribedError(f"networks must be alike, but hold {shown(first)} beside another")
    return DESCEND
