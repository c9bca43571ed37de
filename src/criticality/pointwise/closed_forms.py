"""Two-point Gaussian averages in closed form, for zero-mean arguments.

Notation: ``(x, y)`` Gaussian with variances ``q_a, q_b`` and covariance ``p = rho sqrt(q_a q_b)``; a formula gives
``C = E f(x) f(y)`` and ``Cd = E f'(x) f'(y)``.  ``rho`` is an argument of its own and never recomputed from ``p``, so
that ``1 - rho^2`` keeps its digits at ``|rho| -> 1``.  Derivations: ``docs/theory.md``, section 2.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from criticality.lazy import lazy_module

special = lazy_module("scipy.special")

Array = np.ndarray


class KernelFormula(Protocol):
    """Closed form of the two-point averages of one function.

    ``average`` returns, for arrays of one shape, the average and the largest term that was added to get it: their
    ratio is how many digits cancellation cost.  ``equal`` is the same for one pair of equal variance: the averages
    at correlation 1 and at ``rho``, as floats, with as little overhead as Python allows, for recursions over depth.
    ``tolerance`` is the relative error (to the largest term) that the caller accepts.
    """

    terms: int
    """How many elementary evaluations one average costs at full accuracy."""

    cancels: bool
    """Whether terms may cancel at equal variances, so that ``equal`` does not do."""

    def average(
        self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float
    ) -> tuple[Array, Array]: ...

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]: ...


class LinearFormula:
    """``f(x) = x``."""

    terms = 1
    cancels = False

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        value = np.ones_like(rho) if derivative else rho * np.sqrt(q_a) * np.sqrt(q_b)
        return value, np.abs(value)

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]:
        return (1.0, 1.0) if derivative else (q, q * rho)


class SineFormula:
    """``f(x) = sin x``: ``E sin x sin y = exp(-(q_a + q_b) / 2) sinh p`` and ``E cos x cos y`` with ``cosh p``."""

    terms = 1
    cancels = False

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        p = rho * np.where(q_a == q_b, q_a, np.sqrt(q_a) * np.sqrt(q_b))
        with np.errstate(under="ignore"):
            larger = np.exp(np.abs(p) - (q_a + q_b) / 2) / 2
            fall = np.expm1(-2 * np.abs(p))
        value = larger * (2 + fall) if derivative else np.sign(p) * larger * -fall
        return value, np.abs(value)

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]:
        variances = np.array([q, q])
        values, _ = self.average(variances, variances, np.array([1.0, rho]), derivative, tolerance)
        return float(values[0]), float(values[1])


class ReluFormula:
    """``f(x) = max(x, 0)``: the arc-cosine kernels (Cho and Saul 2009), ``psi = pi - arccos(rho)``."""

    terms = 1
    cancels = False

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        psi = 2 * np.arcsin(np.sqrt((1 + rho) / 2))
        if derivative:
            value = psi / (2 * np.pi)
            return value, value
        shape = np.where(
            psi < 0.05,
            psi**3 * (1 / 3 - psi**2 * (1 / 30 - psi**2 * (1 / 840 - psi**2 / 45360))),
            np.sin(psi) - psi * np.cos(psi),
        )
        value = np.sqrt(q_a) * np.sqrt(q_b) * shape / (2 * np.pi)
        return value, np.abs(value)

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]:
        psi = 2 * math.asin(math.sqrt((1 + rho) / 2))
        if derivative:
            return 0.5, psi / (2 * math.pi)
        return q / 2, q * (math.sin(psi) - psi * math.cos(psi)) / (2 * math.pi)
