"""Two-point Gaussian averages by the Hermite (Mehler) series, with a bound on what is cut off.

``E f(u) f(v) = sum_k rho^k c_k(q_u) c_k(q_v)`` with ``c_k(q) = E f(mean + sqrt(q) z) h_k(z)``, ``h_k`` the
orthonormal Hermite polynomials.  The terms beyond order ``K`` are at most
``|rho|^(K+1) sqrt(t(q_u) t(q_v))`` with ``t(q) = E f^2 - sum_{k<=K} c_k^2`` (Cauchy-Schwarz), which is computed, not
assumed: a caller knows for each pair whether the series is good enough.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

from criticality.pointwise.quadrature import ArrayFunction, gaussian_panels

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
    return z, _polynomials(z, order) * density[:, None]


def _polynomials(z: np.ndarray, order: int) -> np.ndarray:
    """Orthonormal Hermite polynomials, shape ``(*z.shape, order + 1)``."""
    table = np.empty((order + 1, *z.shape))
    table[0] = 1.0
    if order:
        table[1] = z
    for k in range(1, order):
        table[k + 1] = (z * table[k] - np.sqrt(k) * table[k - 1]) / np.sqrt(k + 1)
    return np.ascontiguousarray(np.moveaxis(table, 0, -1))


def grid_resolves(q: Float[np.ndarray, " points"], kinks: tuple[float, ...]) -> bool:
    """Whether orders above the first may be asked for: no kinks, and no deviation so large that features are steep."""
    return not kinks and float(q.max(initial=0.0)) <= _GRID_SIGMA**2


def hermite_coefficients(
    function: ArrayFunction,
    q: Float[np.ndarray, " points"],
    mean: float,
    kinks: tuple[float, ...] = (),
    order: int = ORDERS[0],
) -> tuple[Float[np.ndarray, "points orders"], Float[np.ndarray, " points"]]:
    """Coefficients ``c_0..c_order`` for each variance ``q > 0`` and the remainders ``t(q)`` (see the module).

    Orders above ``ORDERS[0]`` only where ``grid_resolves`` says so.
    """
    sigma = np.sqrt(q)
    if order > ORDERS[0] or (len(q) > 8 and grid_resolves(q, kinks)):
        z, table = _grid(order)
        values = function(mean + sigma[:, None] * z)
        coefficients = values @ table
        total = (values * values) @ table[:, 0]
    else:
        nodes, weights = gaussian_panels(np.full_like(q, mean), sigma, centres=(0.0, *kinks))
        values = function(nodes)
        polynomials = _polynomials((nodes - mean) / sigma[:, None], order)
        coefficients = np.einsum("pn,pnk->pk", weights * values, polynomials)
        total = np.einsum("pn,pn,pn->p", weights, values, values)
    remainder = np.maximum(total - np.sum(coefficients**2, axis=1), 4e-16 * total)
    return coefficients, remainder


def hermite_series(
    coefficients: Float[np.ndarray, "points orders"],
    left: np.ndarray,
    right: np.ndarray,
    rho: Float[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """``sum_k rho^k c_k[left] c_k[right]`` for each pair of rows, by Horner's rule; orders that vanish cost nothing."""
    by_order = np.ascontiguousarray(coefficients.T)
    largest = np.abs(by_order).max(axis=1)
    present = np.flatnonzero(largest > 1e-16 * largest.max(initial=1e-300))
    total = np.zeros_like(rho)
    powers = {1: rho, 2: rho * rho}
    above = 0
    for k in present[::-1].tolist():
        if above:
            total *= powers[above - k] if above - k in powers else rho ** (above - k)
        total += by_order[k, left] * by_order[k, right]
        above = k
    return total * rho**above if above else total
