"""What does a phase diagram cost: 512 x 512 networks of depth 1000, beside plain vectorised NumPy Gauss-Hermite?

tanh, residual, alpha from 0.1 to 5 and sigma_w from 0.3 to 3.  ``gauss-hermite`` runs the same recursion with 32 nodes on as
many layers as fit in the time, and is scaled to the depth; its error is that of fixed nodes, which the table does not have.
"""

from __future__ import annotations

import time

import numpy as np

from criticality.phases import amplification_map
from criticality.phases.interpolation import MomentTable
from criticality.pointwise import FUNCTIONS
from side_by_side import machine

SIZE, DEPTH, LAYERS = 512, 1000, 4


def main() -> None:
    print(__doc__, machine(), sep="\n")
    alpha = np.logspace(-1, np.log10(5), SIZE)[None, :]
    weight = np.linspace(0.3, 3, SIZE)[:, None] ** 2
    start = time.perf_counter()
    log_j, q, _ = amplification_map(FUNCTIONS["tanh"], DEPTH, weight_variance=weight, alpha=alpha)
    ours = time.perf_counter() - start
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    weights = weights / np.sqrt(2 * np.pi)
    variance, total = np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    start = time.perf_counter()
    for _ in range(LAYERS):
        value, slope = np.zeros_like(variance), np.zeros_like(variance)
        root = alpha * np.sqrt(variance)
        for node, share in zip(nodes, weights, strict=True):
            tanh = np.tanh(root * node)
            value += share * tanh**2
            slope += share * (1 - tanh**2) ** 2
        total += np.log1p(weight * alpha**2 * slope)
        variance = variance + weight * value
    plain = (time.perf_counter() - start) / LAYERS * DEPTH
    error = MomentTable(FUNCTIONS["tanh"], -6.0, float(np.log(25 * q.max())) + 1).error()
    print(
        f"\n{SIZE} x {SIZE}, depth {DEPTH}: {ours:.1f} s (below 10 wanted), interpolation error {error:.1e} (below 1e-8 wanted)"
    )
    print(f"gauss-hermite, 32 nodes: {plain:.0f} s, {plain / ours:.0f} times as long")
    print(f"log J between {log_j.min():.2f} and {log_j.max():.1f}")


if __name__ == "__main__":
    main()
