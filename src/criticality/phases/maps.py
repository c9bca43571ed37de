"""Phase diagrams: many networks of one function at once, and the critical line by root finding.

One layer of a network without norm is ``x <- skip x + W phi(alpha x) + b``: ``q <- skip^2 q + sigma_w^2 V(alpha^2 q) +
sigma_b^2`` and ``chi = skip^2 + sigma_w^2 alpha^2 D(alpha^2 q)``; ``skip = 0`` is a plain MLP seen at its preactivations
(Poole et al. 2016, Schoenholz et al. 2017), ``skip = 1`` a residual network.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from criticality.pointwise import Pointwise, PointwiseFunction

_STEP = 1 / 24
_CHUNK = 1 << 14
_LOWEST, _HIGHEST = -60.0, 60.0


class MomentTable:
    """``V`` and ``D`` of ``phi`` on a grid in ``log q``, with cubic Hermite interpolation between.

    The error, relative to the value, is below 1e-9 for functions whose moments vary over a factor of e or more; it is
    measured, not assumed: ``error()``.
    """

    def __init__(self, function: PointwiseFunction, low: float, high: float):
        if not _LOWEST <= low <= high <= _HIGHEST:
            ends = f"exp({_LOWEST:g}) and exp({_HIGHEST:g})"
            raise ValueError(f"variances between exp({low:g}) and exp({high:g}) must lie within {ends}")
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
        """``V`` and ``D`` at ``exp(log_q)``, clipped to the range of the table."""
        place = np.clip((log_q - self.start) / _STEP, 0.0, self.nodes - 2.0)
        index = place.astype(np.intp)
        place -= index
        value, slope = (np.exp(_cubic(table, index, place)) for table in self._cubics)
        return value, slope

    def error(self) -> float:
        """The largest relative error of ``V`` and ``D``, seen half-way between nodes."""
        middle = self.start + _STEP * (np.arange(3, self.nodes - 4, 7) + 0.5)
        found = self.both(middle)
        exact = self.pointwise.V(np.exp(middle)), self.pointwise.D(np.exp(middle))
        return float(max(np.max(np.abs(a / b - 1)) for a, b in zip(found, exact, strict=True)))


def _cubic(table: np.ndarray, index: np.ndarray, place: np.ndarray) -> np.ndarray:
    c = table[index]
    value: np.ndarray = ((c[:, 3] * place + c[:, 2]) * place + c[:, 1]) * place + c[:, 0]
    return value


def amplification_map(
    function: PointwiseFunction,
    depth: int,
    *,
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    alpha: ArrayLike = 1.0,
    skip: ArrayLike = 1.0,
    q0: ArrayLike = 1.0,
    threads: int = 2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``log J(0 -> depth)``, the last variance ``q`` and the last ``log chi`` of every network of a grid.

    Args:
        function: ``phi``; its derivative must not vanish everywhere.
        depth: layers.
        weight_variance, bias_variance, alpha, skip, q0: arrays that broadcast, of the shape of the results.
        threads: how many share the work.

    Raises:
        ValueError: a depth below 1, negative variances, ``alpha`` or ``q0`` not positive, or variances that leave the
            range from exp(-60) to exp(60).
    """
    if isinstance(depth, bool) or int(depth) != depth or depth < 1:
        raise ValueError(f"depth={depth!r} must be a whole number, 1 or above")
    arrays = np.broadcast_arrays(
        *(np.asarray(a, dtype=float) for a in (weight_variance, bias_variance, alpha, skip, q0))
    )
    for name, array, lowest in zip(
        ("weight_variance", "bias_variance", "alpha", "skip", "q0"), arrays, (0, 0, 1e-12, 0, 1e-24), strict=True
    ):
        if not np.all((array >= lowest) & np.isfinite(array)):
            bad = array[~((array >= lowest) & np.isfinite(array))].flat[0]
            raise ValueError(f"{name}={bad:g} must be finite and {'above' if lowest else 'at least'} 0")
    flat = [array.ravel() for array in arrays]
    table = MomentTable(function, *_range(function, depth, *flat))
    pieces = [[array[i : i + _CHUNK] for array in flat] for i in range(0, flat[0].size, _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda piece: _run(table, depth, *piece), pieces))
    log_j, q, log_chi = (np.concatenate(part).reshape(arrays[0].shape) for part in zip(*done, strict=True))
    return log_j, q, log_chi


def _range(function: PointwiseFunction, depth: int, *arrays: np.ndarray) -> tuple[float, float]:
    """Logarithms between which ``alpha^2 q`` stays: by the recursion of the smallest and of the largest network."""
    pointwise = Pointwise(function)
    ends = []
    for pick in (np.min, np.max):
        w, b, a, s, q = (float(pick(array)) for array in arrays)
        path = [a * a * q]
        for _ in range(depth):
            q = s * s * q + w * float(pointwise.equal(a * a * q, 1.0, False)[0]) + b
            if q < 1e-26 or a * a * q > 1e26:
                break
            path.append(a * a * q)
        ends += [min(path), max(path)]
    return max(math.log(min(ends)) - 1, _LOWEST), min(math.log(max(ends)) + 1, _HIGHEST)


def _run(
    table: MomentTable,
    depth: int,
    weight: np.ndarray,
    bias: np.ndarray,
    alpha: np.ndarray,
    skip: np.ndarray,
    q0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, total = q0.copy(), np.zeros_like(q0)
    keep, gain, shift = skip * skip, weight * alpha * alpha, 2 * np.log(alpha)
    product = np.ones_like(q)
    chi = product
    for layer in range(depth):
        value, slope = table.both(np.log(q) + shift)
        chi = keep + gain * slope
        product = product * chi
        if layer % 8 == 7:  # a logarithm now and then
            total += np.log(product)
            product = np.ones_like(q)
        q = np.maximum(keep * q + weight * value + bias, 1e-30)
    with np.errstate(divide="ignore"):
        return total + np.log(product), q, np.log(chi)


def critical_line(
    function: PointwiseFunction, bias_deviations: Float[np.ndarray, " points"], alpha: float = 1.0
) -> Float[np.ndarray, " points"]:
    """``sigma_w`` where a plain MLP is critical, ``chi = 1`` at its fixed point, for each ``sigma_b``.

    At a fixed point of variance ``q``, ``chi = 1`` where ``sigma_w^2 = 1 / (alpha^2 D)``, and then
    ``sigma_b^2 = q - sigma_w^2 V``: one equation for ``q``, solved by Brent's method to 1e-12.

    Raises:
        ValueError: a negative ``sigma_b``, or one for which the equation has no solution between 1e-12 and 1e12.
    """
    pointwise = Pointwise(function, alpha=alpha)

    def variances(log_q: float) -> tuple[float, float]:
        q = math.exp(log_q)
        weight = 1 / float(pointwise.D(q))
        return weight, q - weight * float(pointwise.V(q))

    line = np.empty(len(bias_deviations))
    for i, bias in enumerate(np.asarray(bias_deviations, dtype=float)):
        if not (bias >= 0 and math.isfinite(bias)):
            raise ValueError(f"bias_deviations must be finite numbers, 0 or above, and hold {bias:g}")
        low, high = math.log(1e-12), math.log(1e12)

        def excess(log_q: float, wanted: float = bias * bias) -> float:
            return variances(log_q)[1] - wanted

        if bias == 0:
            line[i] = math.sqrt(variances(low)[0])
        elif excess(low) * excess(high) > 0:
            raise ValueError(
                f"bias_deviations must have a critical sigma_w for {function.name!r}, and {bias:g} has none"
            )
        else:
            line[i] = math.sqrt(variances(brentq(excess, low, high, xtol=1e-13, rtol=1e-13))[0])
    return line
