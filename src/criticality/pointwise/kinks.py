"""Where a function of one's own is not smooth, found by a scan."""

from __future__ import annotations

import numpy as np

from criticality.pointwise.quadrature import ArrayFunction, Singular

TOLERANCE = 1e-10
"""A panel is smooth where a polynomial of degree 15 through its Chebyshev points is as close, relative to its variation there."""

REACH = 32.0
"""The scan looks at ``|x| <= REACH``; beyond, kinks are to be declared."""

MOST = 32

_DEGREE = 15
_NODES = np.cos((2 * np.arange(_DEGREE + 1) + 1) * np.pi / (2 * _DEGREE + 2))
_CHECKS = np.cos(np.linspace(0.0, np.pi, 37))
_WEIGHTS = (-1.0) ** np.arange(_DEGREE + 1) * np.sin((2 * np.arange(_DEGREE + 1) + 1) * np.pi / (2 * _DEGREE + 2))
_INTERPOLATE = _WEIGHTS / (_CHECKS[:, None] - _NODES)
_INTERPOLATE /= _INTERPOLATE.sum(axis=1, keepdims=True)
_NEIGHBOURS = np.linspace(-1.0, 1.0, 33)
_KINK = 2e-3
"""A panel that is not smooth, and narrower than this, holds a kink: features are to be at scale one."""


class RoughError(ValueError):
    """More places are not smooth than there can be kinks."""


def find_kinks(value: ArrayFunction) -> tuple[float, ...]:
    """Places in ``[-REACH, REACH]`` about which no panel is smooth to ``TOLERANCE``, ascending.

    Panels of width 1/4 are halved where they are not smooth; a kink is in the last panel that is not, which is as narrow as
    rounding allows for a bend of the function and wider for one of a derivative. Of the numbers in it the roundest is taken, so
    that a kink at 0 or at 1.3 is exactly there.

    Raises:
        RoughError: more than ``MOST`` places (a function that oscillates beyond resolution, or noise).
    """
    edges = np.arange(-REACH, REACH + 0.125, 0.25) + 0.0371  # kinks at round numbers are inside panels
    low, high = edges[:-1], edges[1:]
    rough = ~_smooth(value, low, high)
    low, high, found = low[rough], high[rough], []
    while len(low):
        if len(low) > 8 * MOST:
            raise RoughError
        middle = (low + high) / 2
        left, right = ~_smooth(value, low, middle), ~_smooth(value, middle, high)
        narrow = high - low < 1e-14 * np.maximum(1.0, np.abs(middle))
        ended = narrow | (~left & ~right)
        found += [pair for pair in zip(low[ended], high[ended], strict=True) if pair[1] - pair[0] < _KINK]
        left, right = left & ~narrow, right & ~narrow
        low, high = np.concatenate([low[left], middle[right]]), np.concatenate([middle[left], high[right]])
    kinks: list[float] = []
    for start, end in sorted((float(start), float(end)) for start, end in found):
        kink = _placed(value, start, end)
        if not kinks or abs(kink - kinks[-1]) > max(1e-6, end - start):
            kinks.append(kink)
    if len(kinks) > MOST:
        raise RoughError
    return tuple(kinks)


def _placed(value: ArrayFunction, low: float, high: float) -> float:
    """The roundest number of an interval, or where wide panels on both sides are smoothest, if they are much smoother there."""
    round_place = _roundest(low, high)
    if high - low < 1e-9 * max(1.0, abs(low)):
        return round_place

    def roughness(places: np.ndarray) -> np.ndarray:
        return np.asarray(_error(value, places - 0.2, places)[0] + _error(value, places, places + 0.2)[0])

    low, high = 2 * low - high, 2 * high - low
    best = round_place
    for _ in range(10):
        places = np.linspace(low, high, 33)
        best, step = float(places[np.argmin(roughness(places))]), (high - low) / 32
        low, high = best - 2 * step, best + 2 * step
    at_best, at_round = roughness(np.array([best, round_place])).tolist()
    rounding = 1e-14 * float(np.abs(value(best + _NEIGHBOURS)).max())
    return round_place if at_round <= 10 * at_best + rounding else best


def singular_or_not(value: ArrayFunction, kink: float) -> float:
    """``Singular`` where the function is not smooth up to the kink from both sides."""
    sides = np.array([kink - 0.125, kink]), np.array([kink, kink + 0.125])
    inside = kink + np.array([-1.0, 1.0]) * (1e-8 * abs(kink) + 1e-14)  # where it is may be known to less than rounding
    low, high = np.array([sides[0][0], inside[1]]), np.array([inside[0], sides[1][1]])
    return kink if np.all(_smooth(value, low, high)) else Singular(kink)


def _smooth(value: ArrayFunction, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether each panel is, or its variation is rounding, as of ``x (1 + erf(x))`` at negative ``x``."""
    error, at_nodes, variation = _error(value, low, high)
    middle = (low + high) / 2
    around = (middle * np.array([[1], [-1]]))[
        ..., None
    ] + _NEIGHBOURS  # on the other side what cancels here may be seen
    rounding = 1e-14 * np.abs(value(around)).max(axis=(0, 2))
    places = 4 * np.finfo(float).eps * np.abs(middle) / (high - low)  # of x itself
    return np.asarray(error <= (TOLERANCE + places) * variation + 1e-12 * np.abs(at_nodes).max(axis=1) + rounding)


def _error(value: ArrayFunction, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the polynomial on each panel; its values at the nodes, and the function's variation."""
    middle, half = ((low + high) / 2)[:, None], ((high - low) / 2)[:, None]
    at_nodes, at_checks = value(middle + half * _NODES), value(middle + half * _CHECKS)
    error = np.abs(at_checks - at_nodes @ _INTERPOLATE.T).max(axis=1)
    return error, at_nodes, np.ptp(np.concatenate([at_nodes, at_checks], axis=1), axis=1)


def _roundest(low: float, high: float) -> float:
    """The number of fewest digits in an interval that is widened by its own width."""
    low, high = low - (high - low), high + (high - low)
    if low <= 0.0 <= high:
        return 0.0
    for digits in range(17):
        near = round((low + high) / 2, digits)
        if low <= near <= high:
            return near
    return (low + high) / 2
