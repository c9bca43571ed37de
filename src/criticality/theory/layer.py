"""One layer ``x <- s x + W phi(alpha x) + b`` at infinite width, for any number of networks at once.

Everything that follows one layer with depth takes its recursion from here: growth at any depth, phase diagrams, fixed points,
finite width, the article's explorers.  A network of several sub-layers is ``propagate``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from criticality.theory.kernels import Numbers, SymmetricKernel
from criticality.theory.norms import Norm, PointwiseNorm

Values: TypeAlias = Any
"""A number, or an array: as what it is computed from."""


class Moments(Protocol):
    """Gaussian moments of the function of a layer, as a table or a closed form has them."""

    def __call__(self, q: Any, /) -> tuple[Any, Any]:
        """``V = E f^2`` and ``D = E f'^2`` at variances ``q``, of their shape."""
        ...


def norm_moments(norm: Norm, q: Numbers) -> tuple[Values, Values]:
    """``V`` and ``D`` of a norm at variances ``q``, of their shape; of one number without the overhead of arrays."""
    if isinstance(norm, PointwiseNorm):
        if isinstance(q, np.ndarray) or norm.pointwise.phi.formula is None:
            return norm.pointwise.both(q)
        return norm.pointwise.equal(q, 1.0, False)[0], norm.pointwise.equal(q, 1.0, True)[0]
    state = SymmetricKernel(q, q, 1)
    return norm.forward(state).q, norm.factor(state).q


@dataclass(frozen=True)
class Layer:
    """``q <- s^2 q + sigma_w^2 V(alpha^2 q) + sigma_b^2``, ``chi = s^2 + sigma_w^2 alpha^2 D(alpha^2 q)``.

    ``s = 1`` is a residual network, ``s = 0`` a plain one seen at its preactivations (Poole et al. 2016).  Parameters and
    variances are numbers or arrays that broadcast, an entry for each network; nothing is checked.

    Attributes:
        function: ``phi``, as a norm of the theory, or only its moments.
        weight_variance, bias_variance: ``sigma_w^2``, ``sigma_b^2``.
        skip: ``s``.
        alpha: on what ``phi`` is applied to, beside an ``alpha`` of its own.
    """

    function: Norm | Moments
    weight_variance: Numbers = 1.0
    bias_variance: Numbers = 0.0
    skip: Numbers = 1.0
    alpha: Numbers = 1.0

    def branch(self, q: Numbers) -> tuple[Values, Values]:
        """What the branch adds to the variance ``q`` and to ``chi``."""
        value, slope = self._moments(self._square * q)
        return self.weight_variance * value + self.bias_variance, self._gain * slope

    def step(self, q: Numbers) -> tuple[Values, Values]:
        """The variance after the layer, and ``chi`` of the layer."""
        added, gain = self.branch(q)
        return self._kept * q + added, self._kept + gain

    def variance(self, q: Numbers) -> Values:
        """That after the layer, where ``chi`` is not asked for, and may be infinite."""
        scaled = self._square * q
        if callable(self.function):
            value = self.function(scaled)[0]
        elif isinstance(self.function, PointwiseNorm) and not isinstance(scaled, np.ndarray):
            value = self.function.pointwise.equal(scaled, 1.0, False)[0]
        else:
            value = self.function.forward(SymmetricKernel(scaled, scaled, 1)).q
        return self._kept * q + self.weight_variance * value + self.bias_variance

    def states(self, q: Numbers) -> Iterator[tuple[Values, Values]]:
        """Endless, from the input: the variance before each layer, and ``chi`` of that layer."""
        while True:
            after, chi = self.step(q)
            yield q, chi
            q = after

    def correlation(self, q: Numbers, rho: Numbers) -> Values:
        """Correlation after the layer of two inputs of variance ``q`` and correlation ``rho``, which broadcast.

        Raises:
            TypeError: ``function`` is only moments.
        """
        scaled, correlation = np.broadcast_arrays(np.asarray(self._square * q), rho)
        covariance: Values
        if isinstance(self.function, PointwiseNorm):
            covariance = self.function.pointwise.C(scaled, scaled, correlation)
        else:
            covariance = self.function.forward(SymmetricKernel(scaled, scaled * correlation, 2)).p  # type: ignore[union-attr]
        both = self._kept * q * rho + self.weight_variance * covariance + self.bias_variance
        return np.clip(both / self.step(q)[0], -1.0, 1.0)

    def _moments(self, q: Numbers) -> tuple[Values, Values]:
        return self.function(q) if callable(self.function) else norm_moments(self.function, q)

    @cached_property
    def _kept(self) -> Numbers:
        return self.skip * self.skip

    @cached_property
    def _square(self) -> Numbers:
        return self.alpha * self.alpha

    @cached_property
    def _gain(self) -> Numbers:
        return self.weight_variance * self._square
