"""The built-in functions.  To add one: write its entry here, nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from criticality.lazy import lazy_module
from criticality.pointwise import closed_forms, erf_mixtures
from criticality.pointwise.function import PointwiseFunction

special = lazy_module("scipy.special")

_GELU_TANH = float(np.sqrt(2 / np.pi))


def _sech2(x: np.ndarray) -> np.ndarray:
    decay = np.exp(-2 * np.abs(x))
    return 4 * decay / (1 + decay) ** 2


def _gelu_tanh_inner(x: np.ndarray) -> np.ndarray:
    near = np.clip(x, -1e50, 1e50)  # its cube is finite
    return _GELU_TANH * (near + 0.044715 * near**3)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * special.expit(2 * _gelu_tanh_inner(x))


def _gelu_tanh_derivative(x: np.ndarray) -> np.ndarray:
    inner = _gelu_tanh_inner(x)
    slope = _GELU_TANH * (1 + 3 * 0.044715 * x * x)
    return special.expit(2 * inner) + 0.5 * x * _sech2(inner) * slope


_ENTRIES = (
    PointwiseFunction("tanh", np.tanh, _sech2, formula=erf_mixtures.tanh_formula()),
    PointwiseFunction(
        "erf",
        lambda x: special.erf(x),
        lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x),
        formula=erf_mixtures.erf_formula(),
    ),
    PointwiseFunction("arctan", np.arctan, lambda x: 1 / (1 + x * x), formula=erf_mixtures.arctan_formula()),
    PointwiseFunction(
        "isru",
        lambda x: x / np.sqrt(1 + x * x),
        lambda x: (1 + x * x) ** -1.5,
        formula=erf_mixtures.isru_formula(),
    ),
    PointwiseFunction(
        "gelu",
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
        formula=erf_mixtures.gelu_formula(),
    ),
    PointwiseFunction("gelu_tanh", _gelu_tanh, _gelu_tanh_derivative),
    PointwiseFunction(
        "silu",
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) + x * _sech2(x / 2) / 4,
        formula=erf_mixtures.silu_formula(),
    ),
    PointwiseFunction(
        "relu",
        lambda x: np.maximum(x, 0.0),
        lambda x: np.heaviside(x, 0.5),
        kinks=(0.0,),
        formula=closed_forms.ReluFormula(),
    ),
    PointwiseFunction("identity", lambda x: x, np.ones_like, formula=closed_forms.LinearFormula()),
)
FUNCTIONS = {entry.name: replace(entry, verified=True) for entry in _ENTRIES}
ALIASES = {"dyt": "tanh", "derf": "erf", "swish": "silu", "linear": "identity"}
