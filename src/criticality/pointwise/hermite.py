"""Two-point Gaussian averages by the Hermite (Mehler) series, with a bound on what is cut off.

``E f(u) f(v) = sum_k rho^k c_k(q_u) c_k(q_v)`` with ``c_k(q) = E f(mean + sqrt(q) z) h_k(z)``, ``h_k`` the
orthonormal Hermite polynomials.  The terms beyond order ``K`` are at most
``|rho|^(K+1) sqrt(t(q_u) t(q_v))`` with ``t(q) = E f^2 - sum_{k<=K} c_k^2`` (Cauchy-Schwarz), which is computed, not
assumed: a caller knows for each pair whether the series is good enough.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from criticality.pointwise.quadrature import ArrayFunction, centres_of, gaussian_panels
from criticality.shapes import Float

ORDERS = (64, 256, 1024)
"""Orders that are tried in turn; the highest converges for every ``|rho| < 0.98``."""

# Up to this deviation one grid in z = (u - mean) / sigma resolves a function that is analytic in |Im u| < 1.
_GRID_SIGMA = 5.0


@cache
def _grid(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``z`` and the table ``h_k(z) w(z)``, shape ``(nodes, order + 1)``, on uniform panels of half a unit."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    centres = np.arange(-12.0, 12.0, 0.5) + 0.25
    z = (centres[:, None] + 0.25 * nodes).ravel()
    density = np.tile(0.25 * weights, len(centres)) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return z, np.ascontiguousarray((_polynomials(z, order) * density).T)


def _polynomials(z: np.ndarray, order: int) -> np.ndarray:
    """Orthonormal Hermite polynomials, shape ``(order + 1, *z.shape)``."""
    table = np.empty((order + 1, *z.shape))
    table[0] = 1.0
    if order:
        table[1] = z
    for k in range(1, order):
        np.multiply(z, table[k], out=table[k + 1])
        table[k + 1] -= math.sqrt(k) * table[k - 1]
        table[k + 1] *= 1 / math.sqrt(k + 1)
    return table


def grid_resolves(q: Float[np.ndarray, " points"], kinks: tuple[float, ...]) -> bool:
    """Whether one grid does for all: no kinks, and no deviation so large that features are steep."""
    return not kinks and float(q.max(initial=0.0)) <= _GRID_SIGMA**2


def hermite_coefficients(
    function: ArrayFunction,
    q: Float[np.ndarray, " points"],
    mean: float,
    kinks: tuple[float, ...] = (),
    order: int = ORDERS[0],
) -> tuple[Float[np.ndarray, "points orders"], Float[np.ndarray, " points"]]:
    """Coefficients ``c_0..c_order`` for each variance ``q > 0`` and the remainders ``t(q)`` (see the module)."""
    sigma = np.sqrt(q)
    if (order > ORDERS[0] or len(q) > 8) and grid_resolves(q, kinks):
        z, table = _grid(order)
        values = function(mean + sigma[:, None] * z)
        coefficients = values @ table
        total = (values * values) @ table[:, 0]
    elif order > ORDERS[0]:  # panels as narrow as these polynomials oscillate; one table at a time is large enough
        coefficients, total = np.empty((len(q), order + 1)), np.empty(len(q))
        for i, deviation in enumerate(sigma.tolist()):
            edges = mean + deviation * np.arange(-12.0, 12.25, 0.5)[None]
            one = np.array([mean]), np.array([deviation])
            nodes, weights = gaussian_panels(*one, edges, centres=centres_of(kinks))
            values = function(nodes)
            coefficients[i] = _polynomials((nodes[0] - mean) / deviation, order) @ (weights * values)[0]
            total[i] = np.sum(weights * values * values)
    else:
        nodes, weights = gaussian_panels(np.full_like(q, mean), sigma, centres=centres_of(kinks))
        values = function(nodes)
        polynomials = _polynomials((nodes - mean) / sigma[:, None], order)
        coefficients = np.einsum("pn,kpn->pk", weights * values, polynomials)
        total = np.einsum("pn,pn,pn->p", weights, values, values)
    remainder = np.maximum(total - np.sum(coefficients**2, axis=1), 4e-16 * total)
    return coefficients, remainder


def tabulated_coefficients(
    function: ArrayFunction,
    q: Float[np.ndarray, " points"],
    mean: float,
    kinks: tuple[float, ...],
    order: int,
    tolerance: float,
) -> tuple[Float[np.ndarray, "points orders"], Float[np.ndarray, " points"]]:
    """``hermite_coefficients`` of many variances from those at few, Chebyshev nodes in ``log q``.

    What is interpolated is ``c_k / sqrt(E f^2)``, ``log E f^2`` and ``t / E f^2``: the end of their Chebyshev series says
    the error of two-point averages, relative to the root of the second moments.  Where it is above ``tolerance``, nodes
    are doubled; where that would take more than half as many as there are variances, nothing is interpolated.
    """
    low, high = np.log(q.min()), np.log(q.max())
    for nodes in (16, 32, 64) if high - low < 4 else (32, 64):
        if 2 * nodes > len(q) or high == low or tolerance == 0.0:
            break
        unit = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        coefficients, remainder = hermite_coefficients(
            function, np.exp((low + high) / 2 + (high - low) / 2 * unit), mean, kinks, order
        )
        total = np.sum(coefficients**2, axis=1) + remainder
        if not np.all(total > 0):
            break
        at_nodes = np.column_stack([coefficients / np.sqrt(total)[:, None], np.log(total), remainder / total])
        series = np.polynomial.chebyshev.chebvander(unit, nodes - 1).T @ at_nodes * (2 / nodes)
        series[0] /= 2
        if 4 * np.linalg.norm(series[-3:]) <= tolerance:
            place = (2 * np.log(q) - low - high) / (high - low)
            table = np.polynomial.chebyshev.chebvander(place, nodes - 1) @ series
            total = np.exp(table[:, -2])
            return np.sqrt(total)[:, None] * table[:, :-2], total * np.maximum(table[:, -1], 4e-16)
    return hermite_coefficients(function, q, mean, kinks, order)


def hermite_series(
    coefficients: Float[np.ndarray, "points orders"],
    left: np.ndarray,
    right: np.ndarray,
    rho: Float[np.ndarray, " pairs"],
    tolerance: float = 0.0,
) -> Float[np.ndarray, " pairs"]:
    """``sum_k rho^k c_k[left] c_k[right]`` for each pair of rows, by Horner's rule.

    Orders are left out whose sum is below ``tolerance`` (at least 1e-32), relative to the roots of the rows' squares.
    """
    squares = coefficients**2
    shares = (squares / np.maximum(squares.sum(axis=1, keepdims=True), 1e-300)).max(axis=0, initial=0.0)
    by_size = np.argsort(shares)
    present = np.sort(by_size[np.cumsum(shares[by_size]) > max(tolerance, 1e-32)])
    by_order = np.ascontiguousarray(coefficients.T)
    total, of_left, of_right = np.zeros_like(rho), np.empty_like(rho), np.empty_like(rho)
    powers = {1: rho, 2: rho * rho}
    above = 0
    for k in present[::-1].tolist():
        if above:
            total *= powers[above - k] if above - k in powers else rho ** (above - k)
        np.take(by_order[k], left, out=of_left, mode="clip")  # which spares a copy
        np.take(by_order[k], right, out=of_right, mode="clip")
        of_left *= of_right
        total += of_left
        above = k
    return total * rho**above if above else total
