"""Moments of a function by table, for recursions of many networks at once."""

from __future__ import annotations

import math

import numpy as np

from criticality.errors import ArgumentError
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.shapes import Float
from criticality.theory.norms import LayerNorm

_STEP = 1 / 24
LOWEST, HIGHEST = -60.0, 60.0


class MomentTable:
    """``V`` and ``D`` of ``phi`` on a grid in ``log q``, with cubic Hermite interpolation between.

    The error, relative to the value, is below 1e-9 for functions whose moments vary over a factor of e or more; it is
    measured, not assumed: ``error()``.
    """

    def __init__(self, function: PointwiseFunction, low: float, high: float):
        if not LOWEST <= low <= high <= HIGHEST:
            ends = f"exp({LOWEST:g}) and exp({HIGHEST:g})"
            raise ArgumentError(f"variances between exp({low:g}) and exp({high:g}) must lie within {ends}")
        self.pointwise = Pointwise(function)
        self.start = math.floor(low / _STEP) * _STEP - 2 * _STEP
        self.nodes = math.ceil((high - self.start) / _STEP) + 4
        grid = self.start + _STEP * np.arange(-2, self.nodes + 2)
        self._cubics = [
            self._coefficients(np.log(moment(np.exp(grid)))) for moment in (self.pointwise.V, self.pointwise.D)
        ]

    @staticmethod
    def _coefficients(y: np.ndarray) -> np.ndarray:
        """Powers of the place within each interval, from fourth-order slopes at the nodes; shape ``(nodes - 1, 4)``."""
        slope = (y[:-4] - 8 * y[1:-3] + 8 * y[3:-1] - y[4:]) / 12
        left, right, a, b = y[2:-3], y[3:-2], slope[:-1], slope[1:]
        rise = right - left
        return np.stack([left, a, 3 * rise - 2 * a - b, a + b - 2 * rise], axis=1)

    def both(self, log_q: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
        """``V`` and ``D`` at ``exp(log_q)``; beyond the table as powers of ``q``."""
        asked = (log_q - self.start) / _STEP
        place = np.clip(asked, 0.0, self.nodes - 2.0)
        beyond = asked - place
        index = place.astype(np.intp)
        place -= index
        logarithms = [_cubic(table, index, place) for table in self._cubics]
        if beyond.any():
            logarithms = [y + beyond * table[index, 1] for y, table in zip(logarithms, self._cubics, strict=True)]
        value, slope = (np.exp(logarithm) for logarithm in logarithms)
        return value, slope

    def error(self) -> float:
        """The largest relative error of ``V`` and ``D``, seen half-way between nodes."""
        middle = self.start + _STEP * (np.arange(3, self.nodes - 4, 7) + 0.5)
        found = self.both(middle)
        exact = self.pointwise.V(np.exp(middle)), self.pointwise.D(np.exp(middle))
        return float(max(np.max(np.abs(a / b - 1)) for a, b in zip(found, exact, strict=True)))


class NormTable:
    """``MomentTable`` of LayerNorm or RMSNorm, where both are known: ``V = q / (q + epsilon)``, ``D = 1 / (q + epsilon)``."""

    def __init__(self, norm: LayerNorm):
        self.norm = norm

    def both(self, log_q: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
        q = np.exp(log_q)
        slope = self.norm.gamma**2 / (q + self.norm.epsilon)
        return q * slope + self.norm.beta**2, slope


def _cubic(table: np.ndarray, index: np.ndarray, place: np.ndarray) -> np.ndarray:
    c = table[index]
    value: np.ndarray = ((c[:, 3] * place + c[:, 2]) * place + c[:, 1]) * place + c[:, 0]
    return value
