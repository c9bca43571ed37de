"""The pointwise functions that were tried in the place of a norm, and others that show what their class depends on.

Functions of 'Stronger Normalization-Free Transformers' (arXiv:2512.10938) are named as there and are those of its published
code (github.com/zlab-princeton/Derf); its arctan is ``arctan_scaled`` here, as ``arctan`` is the plain one, its clipped
smoothsign is smoothsign, which stays below one by itself. All are odd, with ``x > 0`` written out; ``sign`` and ``|x|`` do the
rest.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from criticality.pointwise.closed_forms import SineFormula
from criticality.pointwise.function import PointwiseFunction
from criticality.pointwise.library import FUNCTIONS
from criticality.pointwise.piecewise_linear import PiecewiseLinearFormula
from criticality.pointwise.quadrature import ArrayFunction, Singular


def _odd(
    name: str,
    value: ArrayFunction,
    slope: ArrayFunction,
    kinks: tuple[float, ...] = (0.0,),
) -> PointwiseFunction:
    return PointwiseFunction(
        name,
        lambda x: np.sign(x) * value(np.abs(x)),
        lambda x: slope(np.abs(x)),
        tuple(sorted({*kinks, *(-k for k in kinks)})),
    )


def _clipped(name: str, value: ArrayFunction, slope: ArrayFunction, end: float) -> PointwiseFunction:
    """``min(value, 1)``, which is reached at ``end``."""
    return _odd(
        name,
        lambda x: np.where(x < end, value(np.minimum(x, end)), 1.0),
        lambda x: np.where(x < end, slope(np.minimum(x, end)), 0.0),
        (0.0, end),
    )


def _cube_of_inverse(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 1e-100) ** -3.0


def _cubsign_slope(x: np.ndarray) -> np.ndarray:
    """``3 x^2 / (1 + x^3)^2``, without overflow."""
    near = np.minimum(x, 1e50)
    return 3 * near**2 / (1 + near**3) ** 2


_ENTRIES = (
    _odd(
        "satursin", lambda x: np.sin(np.minimum(x, np.pi / 2)), lambda x: np.cos(np.minimum(x, np.pi / 2)), (np.pi / 2,)
    ),
    PointwiseFunction("arctan_scaled", lambda x: 2 / np.pi * np.arctan(x), lambda x: 2 / np.pi / (1 + x * x)),
    _odd("expsign", lambda x: -np.expm1(-x), lambda x: np.exp(-x)),
    _odd("cubsign", lambda x: 1 / (1 + _cube_of_inverse(x)), _cubsign_slope),
    PointwiseFunction(
        "relsign", lambda x: x / (np.sqrt(x * x + 1) + 1), lambda x: 1 / (np.sqrt(x * x + 1) * (np.sqrt(x * x + 1) + 1))
    ),
    _odd("smoothsign", lambda x: x / (1 + x), lambda x: (1 + x) ** -2.0),
    _odd(
        "exproot",
        lambda x: -np.expm1(-np.sqrt(x)),
        lambda x: np.exp(-np.sqrt(x)) / (2 * np.sqrt(np.maximum(x, 1e-300))),
        (Singular(0.0),),
    ),
    _odd("saturlog", lambda x: np.log1p(x) / (1 + np.log1p(x)), lambda x: 1 / ((1 + x) * (1 + np.log1p(x)) ** 2)),
    replace(
        _clipped("linear_clip", lambda x: x, np.ones_like, 1.0),
        kinks=(-1.0, 1.0),
        formula=PiecewiseLinearFormula(-1.0, 0.0, np.array([-1.0, 1.0]), np.array([1.0, -1.0])),
    ),
    _clipped("logsign_clip", np.log1p, lambda x: 1 / (1 + x), math.e - 1),
    _clipped("logquad_clip", lambda x: np.log1p(x * x), lambda x: 2 * x / (1 + x * x), math.sqrt(math.e - 1)),
    replace(
        _clipped("power23_clip", np.cbrt, np.cbrt, 1.0),
        value=lambda x: np.sign(x) * np.minimum(np.cbrt(x * x), 1.0),
        derivative=lambda x: np.where(np.abs(x) < 1, 2 / 3 / np.cbrt(np.maximum(np.abs(x), 1e-300)), 0.0),
        kinks=(-1.0, Singular(0.0), 1.0),
    ),
    _odd("softsign", lambda x: x / (1 + x), lambda x: (1 + x) ** -2.0),
    _odd("logsign", np.log1p, lambda x: 1 / (1 + x)),
    *(
        _odd(f"power{p:g}", lambda x, p=p: (1 + x) ** p - 1, lambda x, p=p: p * (1 + x) ** (p - 1))  # type: ignore[misc]
        for p in (0.25, 0.4, 0.6, 2 / 3, 0.8)
    ),
)
_STEEP = ("exproot", "power23_clip")
"""Of infinite slope at 0: what is integrated is checked."""

ZOO: dict[str, PointwiseFunction] = {
    **{name: FUNCTIONS[name] for name in ("tanh", "erf", "arctan", "isru")},
    **{entry.name: replace(entry, verified=entry.name not in _STEEP) for entry in _ENTRIES},
    "identity": FUNCTIONS["identity"],
    "silu": FUNCTIONS["silu"],
    "sin": PointwiseFunction("sin", np.sin, np.cos, formula=SineFormula()),
}
