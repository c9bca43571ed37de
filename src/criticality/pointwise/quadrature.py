"""Gaussian averages by composite Gauss-Legendre quadrature that knows both scales.

An average ``E f(u)``, ``u ~ N(mean, sigma^2)``, of a function whose features sit near ``u = 0`` at scale one
has two lengths: one, and ``sigma``.  Gauss-Hermite nodes know only ``sigma``: for ``sigma >> 1`` they step over
``tanh'``, a spike of width ``1/sigma`` in their variable, and are wrong by 88 per cent at ``sigma = 10`` with a
hundred nodes.  Here the line is cut into panels at both scales, dyadic about zero and about the kinks of the
function, and even about the mean in units of ``sigma``; a 16-point Gauss-Legendre rule on each then converges to
rounding for any function that is analytic, panel by panel, in a strip about the real axis whose width grows with
``|u|``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from criticality.shapes import Float

ArrayFunction = Callable[[np.ndarray], np.ndarray]


class Singular(float):
    """A kink about which the function is like a broken power of the distance: panels shrink towards it."""


_FINE = 4.0 ** np.arange(-50, 0)
"""Down to 1e-30: of an integral of ``|x|**-0.6`` a share of 1e-12 is nearer to 0 than that."""

_GAUSSIAN_EDGES = np.array([0.0, 0.75, 1.5, 2.5, 3.5, 4.5, 6.0, 7.5, 9.0, 10.5, 12.0])
_RANGE = float(_GAUSSIAN_EDGES[-1])
_PANEL_ORDER = 16
_HERMITE_ORDER = 40
# Below this standard deviation a Gauss-Hermite rule of _HERMITE_ORDER nodes integrates functions that are analytic
# in |Im u| < pi/2 to rounding; above it panels are needed.
SMALL_SIGMA = 0.35


@cache
def _legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(order)


@cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_ORDER)
    return nodes, weights / np.sqrt(2 * np.pi)


def gaussian_panels(
    mean: Float[np.ndarray, " points"],
    sigma: Float[np.ndarray, " points"],
    edges: Float[np.ndarray, "points edges"] | None = None,
    centres: tuple[float, ...] = (0.0,),
    order: int = _PANEL_ORDER,
) -> tuple[Float[np.ndarray, "points nodes"], Float[np.ndarray, "points nodes"]]:
    """Nodes and weights with ``sum(weights * f(nodes), axis=1) ~ E f(u)``, ``u ~ N(mean, sigma^2)``.

    ``centres`` are the places where ``f`` has features at scale one (zero and the kinks); ``edges`` are more panel
    edges, one row per point, for features at other places; ``order`` nodes to a panel.  The density is cut at twelve
    standard deviations (mass 4e-33).
    """
    half, middle = _panels(mean[:, None], sigma[:, None], edges, centres)
    used = np.any(half > 0, axis=0)
    half, middle = half[:, used], middle[:, used]
    u, w = _on_panels(half[:, :, None], middle[:, :, None], mean[:, None, None], sigma[:, None, None], order)
    shape = half.shape[0], half.shape[1] * order
    return u.reshape(shape), w.reshape(shape)


def _panels(
    mean: Float[np.ndarray, "points 1"],
    sigma: Float[np.ndarray, "points 1"],
    edges: Float[np.ndarray, "points edges"] | None,
    centres: tuple[float, ...],
) -> tuple[Float[np.ndarray, "points panels"], Float[np.ndarray, "points panels"]]:
    """Half the width, 0 of some, and the middle of each panel."""
    reach = float(np.max(np.abs(mean) + _RANGE * sigma, initial=0.0))
    dyadic = 2.0 ** np.arange(-1, max(0, int(np.ceil(np.log2(max(reach, 1e-300))))) + 1)
    parts = [mean + sigma * _GAUSSIAN_EDGES, mean - sigma * _GAUSSIAN_EDGES[1:]]
    for centre in centres:
        near = (
            dyadic if centre == 0.0 else dyadic[dyadic <= max(1.0, 2 * abs(centre))]
        )  # further away it is as near as 0
        steps = near if reach > 0.5 else np.zeros(0)
        if isinstance(centre, Singular):
            steps = np.concatenate([_FINE, steps])
        around = np.concatenate([[0.0], steps, -steps]) + centre
        parts.append(np.repeat(around[None], len(mean), axis=0))
    if edges is not None:
        parts.append(edges)
    cuts = np.concatenate(parts, axis=1)
    cuts = np.maximum(mean - _RANGE * sigma, np.minimum(mean + _RANGE * sigma, cuts))
    cuts.sort(axis=1)
    return (cuts[:, 1:] - cuts[:, :-1]) / 2, (cuts[:, 1:] + cuts[:, :-1]) / 2


def _on_panels(
    half: np.ndarray, middle: np.ndarray, mean: np.ndarray, sigma: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes along the last axis, and weights with the density in them."""
    nodes, weights = _legendre(order)
    u = middle + half * nodes
    w = half * weights
    with np.errstate(under="ignore"):
        density = np.exp(-0.5 * ((u - mean) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    return u, w * density


def centres_of(kinks: tuple[float, ...]) -> tuple[float, ...]:
    """The kinks, and zero where none of them is."""
    return kinks if 0.0 in kinks else (0.0, *kinks)


def gaussian_average(
    function: ArrayFunction,
    sigma: Float[np.ndarray, " points"],
    mean: float = 0.0,
    kinks: tuple[float, ...] = (),
    order: int = _PANEL_ORDER,
) -> Float[np.ndarray, "... points"]:
    """``E f(u)`` with ``u ~ N(mean, sigma^2)``, for each ``sigma > 0``; ``f`` may be kinked at ``kinks``, and be several functions
    along leading axes of its values."""
    means = np.full_like(sigma, mean)
    nodes, weights = gaussian_panels(means, sigma, centres=centres_of(kinks), order=order)
    return np.einsum("pn,...pn->...p", weights, function(nodes))


def unresolved(
    function: ArrayFunction, sigma: Float[np.ndarray, " points"], mean: float, kinks: tuple[float, ...]
) -> Float[np.ndarray, " unresolved"]:
    """The deviations at which rules of two orders disagree on ``E f^2``: features that the panels do not resolve.

    So do those at which ``f^2`` times the density is not small where it is cut, as for a function that grows like ``exp(x)``.
    Looked at in steps of nine per cent of the deviation, and once for each function.
    """
    steps = np.ceil(8 * np.log2(sigma)).astype(int)
    asked = {step for last in np.unique(steps).tolist() for step in (last - 1, last)}
    bad = [step for step in sorted(asked) if not _resolved(function, step, mean, kinks)]
    return sigma[np.isin(steps, bad) | np.isin(steps - 1, bad)]


@lru_cache(maxsize=4096)
def _resolved(function: ArrayFunction, step: int, mean: float, kinks: tuple[float, ...]) -> bool:
    sigma = np.array([2.0 ** (step / 8)])

    def squared(u: np.ndarray) -> np.ndarray:
        return function(u) ** 2

    used, finer = (gaussian_average(squared, sigma, mean, kinks, order)[0] for order in (_PANEL_ORDER, 24))
    ends = squared(mean + _RANGE * np.array([-1.0, 1.0]) * sigma).max() * math.exp(-(_RANGE**2) / 2)
    return bool(abs(used - finer) <= _AGREES * finer and ends <= _AGREES * finer)


_AGREES = 1e-9


def _smoothed(
    function: ArrayFunction,
    mean: Float[np.ndarray, " points"],
    sigma: float,
    kinks: tuple[float, ...],
) -> Float[np.ndarray, " points"]:
    """``E f(mean + sigma z)`` for many means and one ``sigma``."""
    if sigma == 0.0:
        return function(mean)
    if sigma > SMALL_SIGMA:
        return _smoothed_on_panels(function, mean, sigma, kinks)
    nodes, weights = _hermite()
    kinked = np.any(np.abs(mean[:, None] - np.asarray(kinks)) <= _RANGE * sigma, axis=1)
    value = np.empty_like(mean)
    if not kinked.all():
        value[~kinked] = function(mean[~kinked, None] + sigma * nodes) @ weights
    if kinked.any():
        value[kinked] = _smoothed_on_panels(function, mean[kinked], sigma, kinks)
    return value


def _smoothed_on_panels(
    function: ArrayFunction, mean: np.ndarray, sigma: float, kinks: tuple[float, ...]
) -> np.ndarray:
    half, middle = _panels(mean[:, None], np.full((len(mean), 1), sigma), None, centres_of(kinks))
    points, panels = np.nonzero(half)  # most panels are empty at most points
    half, middle = half[points, panels][:, None], middle[points, panels][:, None]
    nodes, weights = _on_panels(half, middle, mean[points][:, None], np.full((1, 1), sigma), _PANEL_ORDER)
    return np.bincount(points, np.einsum("pn,pn->p", weights, function(nodes)), len(mean))


def gaussian_pair_average(
    function: ArrayFunction,
    sigma_left: float,
    sigma_right: float,
    rho: float,
    mean: float = 0.0,
    kinks: tuple[float, ...] = (),
) -> float:
    """``E f(u) f(v)`` for jointly Gaussian ``u, v`` of equal mean, the given deviations and correlation.

    Nested panels: the outer variable is the one with the larger deviation, the inner is its partner conditioned on
    it, ``N(m, tau^2)`` with ``tau = sigma sqrt(1 - rho^2)``, so that every correlation up to ``|rho| = 1`` (where
    ``tau = 0``) is the same computation.  Relative error about 1e-13 for functions as in ``gaussian_panels`` when
    the average itself is not small by cancellation; about 1e5 to 1e6 function values.
    """
    sigma, partner = max(sigma_left, sigma_right), min(sigma_left, sigma_right)
    if sigma == 0.0:
        return float(function(np.array([mean]))[0] ** 2)
    slope = rho * partner / sigma
    tau = partner * np.sqrt((1 - rho) * (1 + rho))
    # The smoothed partner has features at scale max(1, tau) where its mean crosses zero or a kink.
    edges = np.zeros((1, 0))
    if slope != 0.0:
        fine, coarse = np.array([0.0, 1.0, 3.0, 6.0, 9.0]) * tau, np.array([0.0, 0.5, 1.0, 2.0, 4.0]) * max(1.0, tau)
        targets = np.concatenate([c + sign * d for c in centres_of(kinks) for d in (fine, coarse) for sign in (1, -1)])
        edges = np.unique(mean + (targets - mean) / slope)[None, :]
    nodes, weights = gaussian_panels(np.array([mean]), np.array([sigma]), edges, centres=centres_of(kinks))
    outer = nodes[0]
    share = weights[0] * function(outer)
    keep = np.abs(share) > 1e-40 * np.abs(share).max()  # of a bounded function's slope most of the line is nothing
    outer, share = outer[keep], share[keep]
    inner = np.concatenate(
        [_smoothed(function, chunk, float(tau), kinks) for chunk in np.array_split(mean + slope * (outer - mean), 8)]
    )
    return float(np.sum(share * inner))
