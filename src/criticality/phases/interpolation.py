"""Tables of moments and polynomials in the logarithm of a parameter, for maps of many networks."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from criticality.arguments import Number, numbers_within
from criticality.errors import ArgumentError
from criticality.pointwise import Pointwise, PointwiseFunction

_STEP = 1 / 24
LOWEST, HIGHEST = -60.0, 60.0
"""Logarithms of the variances between which tables reach."""


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

    def __call__(self, q: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
        """``V`` and ``D``, ``q`` clipped to the range of the table."""
        place = np.clip((np.log(q) - self.start) / _STEP, 0.0, self.nodes - 2.0)
        index = place.astype(np.intp)
        place -= index
        value, slope = (np.exp(_cubic(table, index, place)) for table in self._cubics)
        return value, slope

    def error(self) -> float:
        """The largest relative error of ``V`` and ``D``, seen half-way between nodes."""
        middle = self.start + _STEP * (np.arange(3, self.nodes - 4, 7) + 0.5)
        found = self(np.exp(middle))
        exact = self.pointwise.V(np.exp(middle)), self.pointwise.D(np.exp(middle))
        return float(max(np.max(np.abs(a / b - 1)) for a, b in zip(found, exact, strict=True)))


def _cubic(table: np.ndarray, index: np.ndarray, place: np.ndarray) -> np.ndarray:
    c = table[index]
    value: np.ndarray = ((c[:, 3] * place + c[:, 2]) * place + c[:, 1]) * place + c[:, 0]
    return value


class Chebyshev:
    """Polynomial interpolation in the logarithm of a parameter, along the last axis."""

    def __init__(self, name: str, values: Float[np.ndarray, " values"], nodes: int):
        values = numbers_within(Number(low=0, above=True), name, values)
        if values.ndim != 1 or len(values) < 2 or not np.all(values > 0) or not np.all(np.diff(values) > 0):
            raise ArgumentError(f"{name} must be two or more positive, increasing numbers")
        self.low, self.high = math.log(values[0]), math.log(values[-1])
        self.unit = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        self._inverse = np.linalg.inv(np.polynomial.chebyshev.chebvander(self.unit, nodes - 1))
        self.points = self._from_unit(self.unit)

    def _from_unit(self, unit: np.ndarray) -> np.ndarray:
        logarithms: np.ndarray = (self.low + self.high) / 2 + (self.high - self.low) / 2 * unit
        return np.exp(logarithms)

    def between(self) -> np.ndarray:
        """Half-way between the nodes."""
        return self._from_unit(np.cos(np.pi * np.arange(1, len(self.unit)) / len(self.unit)))

    def at(self, values: Float[np.ndarray, "... nodes"], places: Float[np.ndarray, " places"]) -> np.ndarray:
        unit = (2 * np.log(places) - self.low - self.high) / (self.high - self.low)
        table = np.polynomial.chebyshev.chebvander(unit, len(self.unit) - 1) @ self._inverse
        result: np.ndarray = values @ table.T
        return result
