"""What a pointwise function declares, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from criticality.arguments import check_fields, checked
from criticality.errors import ArgumentError, NotFiniteError, raised
from criticality.pointwise.closed_forms import KernelFormula
from criticality.pointwise.kinks import RoughError, find_kinks, singular_or_not
from criticality.pointwise.piecewise_linear import piecewise_linear
from criticality.pointwise.quadrature import ArrayFunction, Singular

_PROBES = np.array([-3.0, -0.4, 0.0, 1e-3, 0.7, 25.0])


@dataclass(frozen=True)
class PointwiseFunction:
    """A scalar function ``phi`` applied to every channel.

    Attributes:
        name: what the library and the command line call it.
        value: ``phi`` on float64 arrays of any shape.
        derivative: ``phi'``, likewise; differences of order eight when not given (relative error about 1e-11,
            1e-9 next to a kink).
        kinks: where ``phi`` or ``phi'`` is not smooth; quadrature panels end there.
        formula: closed form of the two-point averages, where there is one.
        verified: whether tests hold its moments to mpmath, or its quadrature to a finer one at all variances; of others, every
            quadrature is checked as it is done.
    """

    name: str
    value: ArrayFunction
    derivative: ArrayFunction
    kinks: tuple[float, ...] = ()
    formula: KernelFormula | None = None
    verified: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@checked
def pointwise_function(
    value: Callable[[np.ndarray], np.ndarray],
    derivative: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    name: str | None = None,
    kinks: tuple[float, ...] | None = None,
) -> PointwiseFunction:
    """Declare a function of one's own.

    Args:
        value: takes and returns a float64 array of the same shape; features at scale one about zero, or about the
            ``kinks``, are resolved by the quadrature.
        derivative: likewise; taken by differences when not given.
        name: defaults to the callable's own name.
        kinks: places where the function or one of its derivatives jumps, beside those that a scan finds (``kinks.find_kinks``,
            between -32 and 32, to a relative 1e-10).

    Raises:
        ValueError: when the callable does not map arrays to finite float64 arrays of the same shape, raises, jumps itself, or
            has, without ``kinks``, more places that are not smooth than the scan can tell apart; when differences do not give its
            derivative; the message carries the callable's own.

    >>> import numpy as np
    >>> softsign = pointwise_function(lambda x: x / (1 + np.abs(x)), name="softsign", kinks=(0.0,))
    >>> softsign.name
    'softsign'
    """
    label = name or str(getattr(value, "__name__", "function"))
    if kinks is not None and not all(isinstance(kink, (int, float)) and np.isfinite(kink) for kink in kinks):
        raise ArgumentError(f"kinks={kinks!r} of function {label!r} must be finite numbers")
    if not callable(value):
        raise ArgumentError(f"value={value!r} of function {label!r} must be a function of a float64 array")
    phi = _Checked(value, label, "value")
    phi(_PROBES)
    places = _places(phi, label, kinks)
    slope = _Checked(derivative, label, "derivative") if derivative is not None else _differences(phi, places, label)
    slope(_PROBES)
    linear = piecewise_linear(phi, places)
    return PointwiseFunction(label, phi, slope, places, linear)


def _places(value: ArrayFunction, label: str, declared: tuple[float, ...] | None) -> tuple[float, ...]:
    """Kinks of a function of one's own: those that the scan finds, and those that are declared where it finds none."""
    try:
        found = find_kinks(value)
    except RoughError:
        if declared is None:
            raise ArgumentError(
                f"function {label!r} must be smooth but for a few kinks, but is rough at more places than can be told apart;"
                " declare kinks=... where they are (on the command line FILE.py:NAME@kinks=0,1)"
            ) from None
        found = ()
    more = {float(kink) for kink in declared or () if all(abs(kink - place) > 1e-3 for place in found)}
    places = sorted({*found, *more})
    for kink in places:
        near, nearer = (float(np.diff(value(kink + np.array([-d, d])))[0]) for d in (1e-8, 1e-11))
        if abs(nearer) > 0.5 * abs(near) and abs(nearer) > 1e-6:
            raise ArgumentError(
                f"function {label!r} must be continuous, but jumps by {nearer:.3g} at x = {kink:g}, where it has no gradient"
            )
    return tuple(singular_or_not(value, kink) for kink in places)


@dataclass(frozen=True)
class _Checked:
    """A callable of the user's, whose faults are said in a sentence."""

    call: Callable[[np.ndarray], np.ndarray]
    label: str
    part: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                returned = np.asarray(self.call(x.copy()))  # it may write into its argument
                y = np.asarray(np.real(returned), dtype=float)
        except Exception as error:
            raise ArgumentError(
                f"{self.part} of function {self.label!r} must take a float64 array, but its own code raised {raised(error)}"
            ) from error
        if returned.dtype in (np.float16, np.float32):
            raise ArgumentError(f"{self.part} of function {self.label!r} must be float64, and is {returned.dtype}")
        if np.iscomplexobj(returned):
            raise ArgumentError(f"{self.part} of function {self.label!r} must be real, and is complex")
        if y.shape != x.shape:
            raise ArgumentError(
                f"{self.part} of function {self.label!r} must keep the shape {x.shape} of its argument, got {y.shape}"
            )
        if not np.all(np.isfinite(y)):
            bad = x[~np.isfinite(y)].flat[0]
            raise NotFiniteError(f"{self.part} of function {self.label!r} must be finite, but is not at x = {bad:g}")
        return y


def _differences(value: ArrayFunction, kinks: tuple[float, ...], label: str) -> ArrayFunction:
    """The derivative by differences of the longest step of which half gives the same.

    Raises:
        ArgumentError: none does; the function has features that are finer than a thousandth.
    """
    x = np.linspace(-8.0, 8.0, 1001) + 0.0371
    slopes = (_Differences(value, kinks, 0.02 * 0.5**halvings) for halvings in range(7))
    for slope, shorter in pairwise(slopes):
        right = shorter(x)
        if np.abs(slope(x) - right).max() <= 1e-8 * np.abs(right).max():
            return slope
    raise ArgumentError(
        f"function {label!r} must come with a derivative, or be smooth at scale 0.01 away from its kinks for differences to give it"
    )


@dataclass(frozen=True)
class _Differences:
    """``phi'`` by differences of order eight with a step of ``scale sqrt(1 + x^2)``: central, and one-sided where the
    stencil would reach over a kink (the derivative from the right at a kink); shorter steps next to a ``Singular`` one."""

    value: ArrayFunction
    kinks: tuple[float, ...]
    scale: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        flat = x.ravel()
        parts = np.array_split(flat, 1 + flat.size // _AT_ONCE)
        return np.concatenate([self._slope(part) for part in parts]).reshape(x.shape)

    def _slope(self, x: np.ndarray) -> np.ndarray:
        step = self.scale * np.sqrt(1 + x * x)
        for kink in self.kinks:
            if isinstance(kink, Singular):
                step = np.minimum(step, np.maximum(np.abs(x - kink) / 32, 1e-6 * abs(kink) + 1e-150))
        side = np.zeros(x.shape, dtype=int)
        for kink in self.kinks:
            side[(x >= kink) & (x - 4 * step < kink)] = 1
            side[(x < kink) & (x + 4 * step > kink)] = -1
        places = x + _OFFSETS[side].T * step
        values = self.value(places.ravel()).reshape(places.shape)
        slope: np.ndarray = np.einsum("xo,ox->x", _WEIGHTS[side], values) / step
        return slope


def _weights(offsets: np.ndarray) -> np.ndarray:
    """Of the values at ``x + offsets step`` in ``step f'(x)``; they solve the conditions on monomials."""
    weights: np.ndarray = np.linalg.solve(np.vander(offsets.astype(float), increasing=True).T, np.eye(len(offsets))[1])
    return weights


_OFFSETS = np.array([np.arange(-4, 5), np.arange(9), -np.arange(9)])
"""Central, to the right, to the left."""

_WEIGHTS = np.array([_weights(offsets) for offsets in _OFFSETS])
_AT_ONCE = 50_000
"""Arguments, of which each takes nine values."""
