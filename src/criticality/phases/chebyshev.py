"""Polynomials through the values at Chebyshev's nodes of an interval."""

from __future__ import annotations

from functools import cache

import numpy as np

from criticality.shapes import Float


class Chebyshev:
    """Interpolation by the polynomial through the values at ``count`` nodes between ``low`` and ``high``.

    Attributes:
        points: the nodes, ``(count,)``.
        coefficients: the matrix from values at the nodes to coefficients of Chebyshev's polynomials, ``(count, count)``: the last
            ones are as small as the error of the interpolation.
    """

    def __init__(self, low: float, high: float, count: int):
        self.low, self.high = low, high
        self.coefficients = _coefficients(count)
        self.points = self._from_unit(_nodes(count))

    def _from_unit(self, unit: np.ndarray) -> np.ndarray:
        places: np.ndarray = (self.low + self.high) / 2 + (self.high - self.low) / 2 * unit
        return places

    def between(self) -> Float[np.ndarray, " count-1"]:
        """Half-way between the nodes."""
        count = len(self.points)
        return self._from_unit(np.cos(np.pi * np.arange(1, count) / count))

    def matrix(self, places: Float[np.ndarray, " places"]) -> Float[np.ndarray, "places count"]:
        """From values at the nodes to those at ``places``."""
        unit = (2 * places - self.low - self.high) / (self.high - self.low)
        table: np.ndarray = np.polynomial.chebyshev.chebvander(unit, len(self.points) - 1) @ self.coefficients
        return table


def _nodes(count: int) -> np.ndarray:
    nodes: np.ndarray = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return nodes


@cache
def _coefficients(count: int) -> np.ndarray:
    """By the orthogonality of Chebyshev's polynomials at their nodes."""
    table = np.polynomial.chebyshev.chebvander(_nodes(count), count - 1).T * (2 / count)
    table[0] /= 2
    return table
