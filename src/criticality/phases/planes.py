"""Many networks of one function at once: ``log J`` after a depth, at every place of a plane of parameters.

One layer of a network without norm is ``x <- skip x + W phi(alpha x) + b``: ``q <- skip^2 q + sigma_w^2 V(alpha^2 q) +
sigma_b^2`` and ``chi = skip^2 + sigma_w^2 alpha^2 D(alpha^2 q)``; ``skip = 0`` is a plain MLP seen at its preactivations
(Poole et al. 2016, Schoenholz et al. 2017), ``skip = 1`` a residual network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from criticality.arguments import Depth, Number, Threads, checked, numbers_within
from criticality.errors import ArgumentError
from criticality.phases.chebyshev import Chebyshev
from criticality.phases.tables import HIGHEST, LOWEST, MomentTable, NormTable
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.theory.layer import Layer
from criticality.theory.norms import LayerNorm, PointwiseNorm

_KINDS = {
    "weight_variance": Number(low=0),
    "bias_variance": Number(low=0),
    "alpha": Number(low=1e-12, above=True),
    "skip": Number(low=0),
    "q0": Number(low=1e-24, above=True),
}
_CHUNK = 1 << 13
_NODES = 16
_FEW = 1.5
_TOLERANCE = 1e-9
_CHECKED = 64
_GOLDEN = (math.sqrt(5) - 1) / 2


class Plane(NamedTuple):
    """What ``amplification_map`` finds, in arrays of the shape to which its parameters broadcast.

    Attributes:
        log_apjn: ``log J(0 -> depth)``.
        q: the last variance.
        log_chi: ``log chi`` of the last layer.
        error: of the interpolation between networks, 0 where each was run: the largest deviation of ``log_apjn`` from networks
            run one by one at 64 places spread over the plane, relative to ``1 + |log J|``.  That of the moments comes on top
            (``MomentTable.error``).
    """

    log_apjn: np.ndarray
    q: np.ndarray
    log_chi: np.ndarray
    error: float


@checked
def amplification_map(
    function: PointwiseFunction | LayerNorm,
    depth: Depth,
    *,
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    alpha: ArrayLike = 1.0,
    skip: ArrayLike = 1.0,
    q0: ArrayLike = 1.0,
    threads: Threads = 2,
) -> Plane:
    """``log J(0 -> depth)``, the last variance ``q`` and the last ``log chi`` of every network of a grid.

    Where one or two parameters vary, each along axes of its own, networks are run at Chebyshev's nodes of their logarithms
    and interpolated.  Rectangles whose last coefficients are above 1e-9 of the largest value are halved, as near critical
    lines, until the interpolation is good or all networks of the rectangle are run.

    Args:
        function: ``phi``, whose derivative must not vanish everywhere, or LayerNorm.
        depth: layers.
        weight_variance, bias_variance, alpha, skip, q0: arrays that broadcast, of the shape of the results.
        threads: how many share the work.

    Raises:
        ValueError: a depth below 1, negative variances, ``alpha`` or ``q0`` not positive, or variances that leave the
            range from exp(-60) to exp(60).
    """
    given = {"weight_variance": weight_variance, "bias_variance": bias_variance, "alpha": alpha, "skip": skip, "q0": q0}
    arrays = {name: numbers_within(_KINDS[name], name, array) for name, array in given.items()}
    shape = _shape_of(arrays)
    extremes = [[float(pick(array)) for array in arrays.values()] for pick in (np.min, np.max)]
    table = (
        NormTable(function)
        if isinstance(function, LayerNorm)
        else MomentTable(function, *_range(function, depth, extremes))
    )

    def run(**places: np.ndarray) -> np.ndarray:
        """``log J``, ``log q`` and ``log chi`` of networks one by one, ``(3, networks)``."""
        flat = [array.ravel() for array in np.broadcast_arrays(*(arrays | places).values())]
        size = min(_CHUNK, max(_CHUNK // 8, math.ceil(flat[0].size / threads)))
        pieces = [[array[i : i + size] for array in flat] for i in range(0, flat[0].size, size)]
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(lambda piece: _run(table, depth, *piece), pieces)), axis=1)

    axes = sorted((_Axis(name, array) for name, array in arrays.items()), key=lambda axis: len(axis.places))
    *fixed, y, x = axes
    if any(len(axis.places) > 1 for axis in fixed) or len(x.places) * len(y.places) > math.prod(shape):
        log_j, log_q, log_chi = run().reshape(3, *shape)
        return Plane(log_j, np.exp(log_q), log_chi, 0.0)

    constants = {axis.name: axis.values(axis.places) for axis in fixed}  # an array of equal numbers, too

    def at(x_places: np.ndarray, y_places: np.ndarray) -> np.ndarray:
        return run(**constants, **{x.name: x.values(x_places), y.name: y.values(y_places)})

    plane, interpolated = _interpolated(at, x.places, y.places)
    deviation = _deviation(at, plane[0], x.places, y.places) if interpolated else 0.0
    log_j, log_q, log_chi = (np.broadcast_to(one[y.index, x.index], shape).copy() for one in plane)
    return Plane(log_j, np.exp(log_q), log_chi, deviation)


def _shape_of(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """That to which they broadcast."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        raise ArgumentError(f"{', '.join(arrays)} must broadcast: {error}") from None


class _Axis:
    """The different values of one parameter in rising order, by their logarithms where all are above 0.

    Attributes:
        places: of the values, rising.
        index: into these, of the parameter's own shape.
    """

    def __init__(self, name: str, array: np.ndarray):
        self.name = name
        values, index = np.unique(array, return_inverse=True)
        self.logarithmic = bool(values[0] > 0)
        self.places = np.log(values) if self.logarithmic else values
        self.index = index.reshape(array.shape)

    def values(self, places: np.ndarray) -> np.ndarray:
        return np.exp(places) if self.logarithmic else places


Networks = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From places along both axes to ``(3, networks)``."""


class _Side:
    """One side of a rectangle of the plane: Chebyshev's nodes where it is ``smooth`` and has more places than these."""

    def __init__(self, places: np.ndarray, smooth: bool):
        self.smooth = Chebyshev(places[0], places[-1], _NODES) if smooth and len(places) > _NODES else None
        self.points = places if self.smooth is None else self.smooth.points
        self.places = places

    def resolved(self, values: np.ndarray) -> bool:
        """Whether the last coefficients along the last axis are negligible."""
        if self.smooth is None:
            return True
        tail = np.abs(values @ self.smooth.coefficients[-3:].T).max(axis=(1, 2))
        return bool(np.all(tail <= _TOLERANCE * (1 + np.abs(values).max(axis=(1, 2)))))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Along the last axis, from the points to the places."""
        return values if self.smooth is None else values @ self.smooth.matrix(self.places).T


def _sides(y: np.ndarray, x: np.ndarray) -> tuple[_Side, _Side]:
    """Where a rectangle is so small that nodes which do not resolve it would cost much, they are all of its places."""
    large = len(y) * len(x) > _FEW * min(len(y), _NODES) * min(len(x), _NODES)
    return _Side(y, large), _Side(x, large)


def _interpolated(run: Networks, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, bool]:
    """``(3, y, x)``, and whether any of it is interpolated; all rectangles of one size are run at once."""
    plane, interpolated = np.empty((3, len(y), len(x))), False
    rectangles = [(slice(0, len(y)), slice(0, len(x)))]
    while rectangles:
        sides = [_sides(y[rows], x[columns]) for rows, columns in rectangles]
        meshes = [np.meshgrid(down.points, across.points, indexing="ij") for down, across in sides]
        found = run(*(np.concatenate([mesh[axis].ravel() for mesh in meshes]) for axis in (1, 0)))
        pieces = np.split(found, np.cumsum([mesh[0].size for mesh in meshes])[:-1], axis=1)
        halves = []
        for (rows, columns), (down, across), mesh, piece in zip(rectangles, sides, meshes, pieces, strict=True):
            values = piece.reshape(3, *mesh[0].shape)
            turned = values.transpose(0, 2, 1)
            good = down.resolved(turned), across.resolved(values)
            if all(good):
                plane[:, rows, columns] = down.spread(across.spread(values).transpose(0, 2, 1)).transpose(0, 2, 1)
                interpolated |= down.smooth is not None or across.smooth is not None
            else:
                halves += [(a, b) for a in _halved(rows, good[0]) for b in _halved(columns, good[1])]
        rectangles = halves
    return plane, interpolated


def _halved(part: slice, good: bool) -> list[slice]:
    middle = (part.start + part.stop) // 2
    return [part] if good else [slice(part.start, middle), slice(middle, part.stop)]


def _deviation(run: Networks, log_j: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance from networks run one by one, at places whose columns and rows are spread evenly."""
    steps = np.arange(_CHECKED)
    columns = steps * (len(x) - 1) // (_CHECKED - 1)
    rows = (steps * _GOLDEN % 1 * len(y)).astype(int)
    exact = run(x[columns], y[rows])[0]
    return float(np.max(np.abs(log_j[rows, columns] - exact) / (1 + np.abs(exact))))


def _range(function: PointwiseFunction, depth: int, extremes: list[list[float]]) -> tuple[float, float]:
    """Logarithms between which ``alpha^2 q`` stays: by the recursion of the smallest and of the largest network."""
    norm = PointwiseNorm(Pointwise(function))
    ends = []
    for weight, bias, alpha, skip, q in extremes:
        layer, path = Layer(norm, weight, bias, skip, alpha), [alpha * alpha * q]
        for _ in range(depth):
            q = layer.variance(q)
            if q < 1e-26 or alpha * alpha * q > 1e26:
                break
            path.append(alpha * alpha * q)
        ends += [min(path), max(path)]
    return max(math.log(min(ends)) - 1, LOWEST), min(math.log(max(ends)) + 1, HIGHEST)


def _run(
    table: MomentTable | NormTable,
    depth: int,
    weight: np.ndarray,
    bias: np.ndarray,
    alpha: np.ndarray,
    skip: np.ndarray,
    q0: np.ndarray,
) -> np.ndarray:
    layer = Layer(lambda scaled: table.both(np.log(scaled)), weight, bias, skip, alpha)
    q, total = q0.copy(), np.zeros_like(q0)
    product = np.ones_like(q)
    chi = product
    for number in range(depth):
        q, chi = layer.step(q)
        q = np.clip(q, 1e-30, 1e300)
        product = product * chi
        if number % 8 == 7:  # a logarithm now and then
            total += np.log(product)
            product = np.ones_like(q)
    with np.errstate(divide="ignore"):
        return np.stack([total + np.log(product), np.log(q), np.log(chi)])
