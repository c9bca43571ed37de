"""Gaussian averages by mpmath's tanh-sinh quadrature: slow, and shares nothing with the library."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import mpmath as mp
from mpmath.calculus.quadrature import GaussLegendre

MpFunction = Callable[[mp.mpf], mp.mpf]

_GELU = mp.mpf("0.044715")


def _expit(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def _gelu_tanh(x: mp.mpf) -> mp.mpf:
    return x * _expit(2 * mp.sqrt(2 / mp.pi) * (x + _GELU * x**3))


def _gelu_tanh_slope(x: mp.mpf) -> mp.mpf:
    inner = 2 * mp.sqrt(2 / mp.pi) * (x + _GELU * x**3)
    s = _expit(inner)
    return s + x * s * _expit(-inner) * 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * _GELU * x * x)


FUNCTIONS: dict[str, tuple[MpFunction, MpFunction]] = {
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "erf": (mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
    "arctan": (mp.atan, lambda x: 1 / (1 + x * x)),
    "isru": (lambda x: x / mp.sqrt(1 + x * x), lambda x: (1 + x * x) ** mp.mpf(-1.5)),
    "gelu": (lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x)),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_slope),
    "silu": (
        lambda x: x * _expit(x),
        lambda x: _expit(x) + x * _expit(x) * _expit(-x),
    ),
    "relu": (lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(1) if x > 0 else mp.mpf(0)),
    "identity": (lambda x: x, lambda x: mp.mpf(1)),
}


def _cuts(low: mp.mpf, high: mp.mpf, centres: list[mp.mpf], scales: list[mp.mpf]) -> list[mp.mpf]:
    """Breakpoints: every centre, and every scale to either side of it."""
    points = {low, high}
    for centre in centres:
        for scale in (mp.mpf(0), *scales):
            points |= {centre - scale, centre + scale}
    kept: list[mp.mpf] = []
    for point in sorted(p for p in points if low <= p <= high):
        if not kept or point - kept[-1] > (high - low) * mp.mpf("1e-13"):
            kept.append(point)
    return kept


def one_point(function: MpFunction, q: float, shift: float = 0.0, digits: int = 30) -> mp.mpf:
    """``E function(u)``, ``u ~ N(shift, q)``."""
    with mp.workdps(digits):
        sigma, mean = mp.sqrt(mp.mpf(q)), mp.mpf(shift)
        scales = [mp.mpf(s) for s in (0.5, 1, 2, 4, 8, 16, 64, 512, 8192, 131072)]
        scales = [s for s in scales if s < 14 * sigma] + [sigma, 3 * sigma, 7 * sigma]
        cuts = _cuts(mean - 14 * sigma, mean + 14 * sigma, [mean, mp.mpf(0)], scales)
        return mp.quad(lambda u: function(u) * mp.npdf(u, mean, sigma), cuts)


@cache
def _legendre(digits: int) -> list[tuple[mp.mpf, mp.mpf]]:
    with mp.workdps(digits):
        return list(GaussLegendre(mp.mp).calc_nodes(4, mp.mp.prec))


def _panels(function: MpFunction, cuts: list[mp.mpf], digits: int) -> mp.mpf:
    """Integral by 24 Gauss-Legendre nodes between neighbouring cuts."""
    total = mp.mpf(0)
    for low, high in itertools.pairwise(cuts):
        middle, half = (low + high) / 2, (high - low) / 2
        total += half * mp.fsum(weight * function(middle + half * node) for node, weight in _legendre(digits))
    return total


def two_point(function: MpFunction, q_a: float, q_b: float, rho: float, shift: float = 0.0, digits: int = 22) -> mp.mpf:
    """``E function(u) function(v)`` of variances ``q_a``, ``q_b`` and correlation ``rho``; ``|rho| < 1``.

    The inner variable is ``v`` given ``u``; seconds to a minute.
    """
    with mp.workdps(digits):
        sigma_a, sigma_b, r, mean = mp.sqrt(mp.mpf(q_a)), mp.sqrt(mp.mpf(q_b)), mp.mpf(rho), mp.mpf(shift)
        slope, tau = r * sigma_b / sigma_a, sigma_b * mp.sqrt((1 - r) * (1 + r))
        lengths = [mp.mpf(s) for s in (0.5, 1, 2, 4, 8, 16, 64, 256, 1024, 8192, 65536, 524288)]

        def inner(u: mp.mpf) -> mp.mpf:
            centre = mean + slope * (u - mean)
            scales = [s for s in lengths if s < 9 * tau]
            cuts = _cuts(centre - 9 * tau, centre + 9 * tau, [mp.mpf(0)], scales)
            cuts = sorted({*cuts, *(centre + tau * k for k in (-5, -2.5, 0, 2.5, 5))})
            return _panels(lambda v: function(v) * mp.npdf(v, centre, tau), cuts, digits)

        scales = [s for s in lengths if s < 9 * sigma_a]
        if slope != 0:
            scales += [abs(tau / slope) * s for s in (1, 3, 9) if abs(tau / slope) * s < 9 * sigma_a]
            scales += [abs(s / slope) for s in (1, 4, 16) if abs(s / slope) < 9 * sigma_a]
        cuts = _cuts(mean - 9 * sigma_a, mean + 9 * sigma_a, [mp.mpf(0)], scales)
        cuts = sorted({*cuts, *(mean + sigma_a * k for k in (-5, -2.5, 0, 2.5, 5))})
        return _panels(lambda u: function(u) * mp.npdf(u, mean, sigma_a) * inner(u), cuts, digits)
