"""Write neural_tangents.json: kernels of the erf residual network by the neural-tangents library.

Made once, in an environment of its own (``pip install neural-tangents jax==0.4.30 jaxlib==0.4.30 'numpy<2'
'scipy<1.14'``): the library needs an older jax than is current, and its TensorFlow bridge, which nothing here uses,
does not import there and is replaced by an empty module.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

sys.modules["tf2jax"] = types.ModuleType("tf2jax")

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402
from neural_tangents import stax  # noqa: E402


def kernels(alpha: float, sigma: float, depth: int, q: float, rho: float) -> list[list[float]]:
    """Kernel of two inputs after ``depth`` blocks ``x + W erf(alpha x)``."""
    block = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.Identity(), stax.serial(stax.Erf(1.0, alpha, 0.0), stax.Dense(1, W_std=sigma))),
        stax.FanInSum(),
    )
    _, _, kernel_fn = stax.serial(stax.Dense(1), *[block] * depth)
    inputs = jnp.sqrt(2 * q) * jnp.array([[1.0, 0.0], [rho, jnp.sqrt(1 - rho**2)]])
    return [[float(entry) for entry in row] for row in kernel_fn(inputs, None, "nngp")]


def main() -> None:
    rows = [
        {"alpha": a, "sigma": s, "depth": d, "q": q, "rho": r, "kernel": kernels(a, s, d, q, r)}
        for a, s, d, q, r in [
            (0.1, 1.0, 64, 1.0, 0.5),
            (0.5, 1.0, 16, 1.0, -0.3),
            (0.5, 1.5, 128, 0.2, 0.9),
            (1.0, 1.0, 64, 1.0, 0.0),
            (2.0, 0.7, 256, 4.0, 0.99),
            (5.0, 1.0, 64, 0.01, 0.4),
        ]
    ]
    made = {"made_by": f"tests/data/make_neural_tangents.py, neural-tangents {nt.__version__}, jax {jax.__version__}"}
    Path(__file__).with_name("neural_tangents.json").write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
