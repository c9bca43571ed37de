"""The two exponents of a block whose tokens are nearly alike: of angles between them and of gradients.

Both are slopes of the block's maps at correlation one (Cowsik et al. 2024; docs/theory, section 13).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from criticality.arguments import Size, Start, checked
from criticality.errors import ArgumentError
from criticality.theory.attention import ScoreSampling
from criticality.theory.kernels import SymmetricKernel
from criticality.theory.network import Sublayer


class CollapseExponents(NamedTuple):
    """Growth per block near ``rho = 1``.

    Attributes:
        angle: ``lambda_a``, of ``log(1 - rho)``: below 0 tokens become alike, above 0 they part.
        gradient: ``lambda_g``, of the squared gradient of the tokens' common mode; at least the growth of a single token's.
    """

    angle: float
    gradient: float


@checked
def collapse_exponents(block: Sequence[Sublayer], q: Start, tokens: Size = 2) -> CollapseExponents:
    """``lambda_a = log(u' - v' of (1, 0)) - log(q'/q)`` and ``lambda_g = log(u' of (1, 1))`` at ``K = q 1 1^T``.

    The block's map of ``q - p`` forward and of ``u - v`` backward have the same slope there; ``(1, 1)`` is the common mode.

    Args:
        block: sub-layers in order.
        q: variance of the stream before the block.
        tokens: how many are equivalent.

    Returns:
        Natural logarithms per block; ``-inf`` where a mode dies.

    Raises:
        UndescribedError: a block that tells tokens apart.
        ValueError: a ``q`` that is not positive and finite.
    """
    if not (math.isfinite(q) and q > 0):
        raise ArgumentError(f"q={q!r} must be a finite variance above 0")
    sampling = ScoreSampling(2, 0)
    kernels = [SymmetricKernel.of(float(q), float(q), max(tokens, 2))]
    for sublayer in block:
        kernels.append(sublayer.forward(kernels[-1], sampling))
    ends = []
    for start in ((1.0, 0.0), (1.0, 1.0)):
        gradient = kernels[0].with_entries(*start)
        for sublayer, kernel in zip(reversed(block), reversed(kernels[:-1]), strict=True):
            gradient = sublayer.backward(kernel, gradient, sampling)
        ends.append(gradient)
    difference, common = ends
    with np.errstate(divide="ignore"):
        slope, gain = np.log(np.maximum(difference.q - difference.p, 0.0)), np.log(common.q)
    return CollapseExponents(float(slope) - math.log(float(kernels[-1].q) / q), float(gain))
