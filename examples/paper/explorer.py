"""Tables behind the interactive figures of the article: one layer repeated, over its parameters, at every depth shown.

Both are the recursion of one layer ``x <- s x + W phi(alpha x) + b`` for two inputs (docs/theory, sections 5 and 8), with
``s = 1`` (residual network) or ``s = 0`` (plain MLP): variance ``q``, correlation ``rho`` and ``log J(0 -> l)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice

import numpy as np
import xarray as xr

from criticality.phases import ResidualStep, classify, fixed_point_of
from criticality.pointwise import get_function
from criticality.theory import Layer, make_norm

NORMS = ("ln", "dyt", "derf")
ALPHAS = tuple(2.0 ** (k / 3) for k in range(-12, 10))
SIGMAS_W = tuple(2.0 ** (k / 2) for k in range(-4, 5))
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
DEPTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
MLP_SIGMAS_W = tuple(np.round(np.arange(0.6, 2.601, 0.1), 10).tolist())
MLP_SIGMAS_B = tuple(np.round(np.arange(0.0, 0.501, 0.05), 10).tolist())
MLP_DEPTHS = (*range(0, 21), 24, 28, 32, 40, 48, 64, 80, 100)


def residual_explorer(
    norms: Sequence[str] = NORMS,
    alphas: Sequence[float] = ALPHAS,
    sigmas_w: Sequence[float] = SIGMAS_W,
    correlations: Sequence[float] = CORRELATIONS,
    depths: Sequence[int] = DEPTHS,
) -> xr.Dataset:
    """``x <- x + W norm(x)`` from ``q = 1``.

    Returns:
        ``log_apjn`` and ``q`` over ``(norm, alpha, sigma_w, depth)``, ``rho`` over ``(norm, alpha, sigma_w, rho0, depth)``; of the
        class at infinite depth (``classify``) ``class_name``, ``exponent`` and ``crossover_depth`` over ``(norm, alpha, sigma_w)``.
        LayerNorm, which has no alpha, is repeated along it.
    """
    alpha, sigma = (np.array(values)[None] for values in (alphas, sigmas_w))
    found = []
    for name in norms:
        layer = Layer(make_norm(name, epsilon=0.0), sigma[..., None] ** 2, alpha=alpha.T[..., None])
        q0 = np.ones((alpha.size, sigma.size, 1))  # (alpha, sigma_w, rho0)
        found.append(_recursion(layer, q0, np.array(correlations), depths))
    classes = [
        [[_class(name, 1.0 if name == "ln" else float(a), float(s)) for s in sigmas_w] for a in alphas]
        for name in norms
    ]
    over = ("norm", "alpha", "sigma_w")
    return xr.Dataset(
        {
            "log_apjn": ((*over, "depth"), np.array([f[0] for f in found])),
            "q": ((*over, "depth"), np.array([f[1] for f in found])),
            "rho": ((*over, "rho0", "depth"), np.array([f[2] for f in found])),
            "class_name": (over, np.array([[[c[0] for c in row] for row in table] for table in classes])),
            "exponent": (over, np.array([[[c[1] for c in row] for row in table] for table in classes])),
            "crossover_depth": (over, np.array([[[c[2] for c in row] for row in table] for table in classes])),
        },
        coords={
            "norm": list(norms),
            "alpha": list(alphas),
            "sigma_w": list(sigmas_w),
            "rho0": list(correlations),
            "depth": list(depths),
        },
    )


def mlp_explorer(
    function: str = "tanh",
    sigmas_w: Sequence[float] = MLP_SIGMAS_W,
    sigmas_b: Sequence[float] = MLP_SIGMAS_B,
    correlations: Sequence[float] = CORRELATIONS,
    depths: Sequence[int] = MLP_DEPTHS,
) -> xr.Dataset:
    """``x <- W phi(x) + b`` from ``q = 1``, and its fixed point.

    Returns:
        ``log_apjn`` and ``q`` over ``(sigma_w, sigma_b, depth)``, ``rho`` over ``(sigma_w, sigma_b, rho0, depth)``, and of the
        fixed point ``chi``, ``fixed_rho`` and ``gradient_length`` (layers; infinite on the critical line) over
        ``(sigma_w, sigma_b)``.
    """
    phi = get_function(function)
    sigma_w, sigma_b = np.array(sigmas_w)[:, None, None], np.array(sigmas_b)[None, :, None]
    q0 = np.ones((len(sigmas_w), len(sigmas_b), 1))
    layer = Layer(make_norm(function), sigma_w**2, sigma_b**2, skip=0.0)
    log_apjn, q, rho = _recursion(layer, q0, np.array(correlations), depths)
    points = [[fixed_point_of(phi, w**2, b**2) for b in sigmas_b] for w in sigmas_w]
    over = ("sigma_w", "sigma_b")
    return xr.Dataset(
        {
            "log_apjn": ((*over, "depth"), log_apjn),
            "q": ((*over, "depth"), q),
            "rho": ((*over, "rho0", "depth"), rho),
            "chi": (over, np.array([[p.chi for p in row] for row in points])),
            "fixed_rho": (over, np.array([[p.rho for p in row] for row in points])),
            "gradient_length": (over, np.array([[p.gradient_length for p in row] for row in points])),
        },
        coords={
            "sigma_w": list(sigmas_w),
            "sigma_b": list(sigmas_b),
            "rho0": list(correlations),
            "depth": list(depths),
        },
    )


def _recursion(
    layer: Layer, q: np.ndarray, correlations: np.ndarray, depths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``log J(0 -> l)`` and ``q`` as ``(..., depth)``, ``rho`` as ``(..., rho0, depth)``, at the depths asked for."""
    log_apjn = np.zeros(q.shape)
    rho = np.broadcast_to(correlations, (*q.shape[:-1], len(correlations)))
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for depth, (before, chi) in enumerate(islice(layer.states(q), max(depths) + 1)):
        if depth in depths:
            kept.append((log_apjn[..., 0], before[..., 0], rho))
        rho, log_apjn = layer.correlation(before, rho), log_apjn + np.log(chi)
    log_apjn, q, rho = (np.stack(part, axis=-1) for part in zip(*kept, strict=True))
    return log_apjn, q, rho


@cache
def _class(norm: str, alpha: float, sigma_w: float) -> tuple[str, float, float]:
    found = classify(ResidualStep(make_norm(norm, None if norm == "ln" else alpha), sigma_w**2))
    return found.kind, found.exponent, found.crossover_depth
