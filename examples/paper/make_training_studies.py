"""Write the studies of ``docs/studies/plan.md``: ``python examples/paper/make_training_studies.py``; needs FashionMNIST.

The weight deviation of each choice is solved by theory so that log J(0 -> L) of the recursion at initialization is the target,
averaged over the kernels that standardized FashionMNIST images have.  What is correlated later is log J as *measured* in each run.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import brentq
from scipy.special import logsumexp

from criticality.laboratory import fashion_mnist
from criticality.pointwise import Pointwise, get_function, pointwise_function
from criticality.sweeps import read_study
from criticality.theory import Layer, PointwiseNorm

FOLDER = Path(__file__).parents[2] / "docs" / "studies" / "training"
RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
ALPHAS, TARGETS = (0.3, 0.6, 1.2, 2.4), (1, 2, 4, 8, 16)
SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
POWERS = {"power-1/2": 1 / 2, "power-2/3": 2 / 3, "power-3/4": 3 / 4}
READABLE_FIRST = [(0.3, 4), (2.4, 4), (0.3, 16), (2.4, 16), (1.2, 8), (0.6, 8), (0.3, 1), (2.4, 1)]


def input_kernels(count: int = 16) -> np.ndarray:
    """Quantiles of ``|x|^2 / inputs`` over images: ``K_0`` of the stream, as both ends are fan-in."""
    data = fashion_mnist()
    square = data.standardized(data.validation).square().mean(1).numpy()
    return np.quantile(square, (np.arange(count) + 0.5) / count)


def moments(norm: str) -> Pointwise:
    """Of a pointwise norm, with alpha 1."""
    if norm not in POWERS:
        return Pointwise(get_function(norm))
    p = POWERS[norm]
    return Pointwise(
        pointwise_function(
            lambda x: np.sign(x) * np.expm1(p * np.log1p(np.abs(x))) / p,
            lambda x: (1 + np.abs(x)) ** (p - 1),
            name=norm,
            kinks=(0.0,),
        )
    )


def log_apjn(phi: Pointwise, alpha: float, sigma_w: float, depth: int, kernels: np.ndarray) -> float:
    """``log`` of the mean over inputs of ``J(0 -> L)`` of ``x <- x + W phi(alpha x)``."""
    states = Layer(PointwiseNorm(phi), sigma_w**2, alpha=alpha).states(kernels)
    total = np.sum([np.log(chi) for _, chi in islice(states, depth)], axis=0)
    return float(logsumexp(total) - np.log(len(kernels)))


def solved(norm: str, alpha: float, target: float, depth: int, kernels: np.ndarray) -> dict[str, Any]:
    """The choice whose log J is the target."""
    phi = moments(norm)
    low, high = 1e-3, 1e-3
    while log_apjn(phi, alpha, high, depth, kernels) < target:
        high *= 2
    sigma_w = brentq(lambda s: log_apjn(phi, alpha, s, depth, kernels) - target, low, high, rtol=1e-6)
    return {"norm": norm, "alpha": alpha, "sigma_w": float(f"{sigma_w:.5g}")}


def factorial(norm: str, depth: int, kernels: np.ndarray) -> list[dict[str, Any]]:
    """Alpha times log J, in an order in which the first few say most."""
    every = [(alpha, target) for alpha in ALPHAS for target in TARGETS]
    ordered = READABLE_FIRST + [pair for pair in every if pair not in READABLE_FIRST]
    return [solved(norm, alpha, target, depth, kernels) for alpha, target in ordered]


def write(
    name: str,
    why: str,
    grid: dict[str, Any],
    fixed: dict[str, Any],
    cases: list[dict[str, Any]],
    search: str = "",
    compute: str = "train",
) -> None:
    """One YAML file; numbers in a form that YAML reads as numbers."""
    content: dict[str, Any] = {"name": name, "compute": compute, "grid": grid, "fixed": fixed, "cases": cases}
    if search:
        content["search"] = search
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=118)
    (FOLDER / f"{name}.yaml").write_text(
        f"# {why} Made by examples/paper/make_training_studies.py; the plan is docs/studies/plan.md.\n{text}"
    )


def before_training(depth: int, cases: list[dict[str, Any]]) -> None:
    """The same choices before their first step."""
    fixed = {"task": "fashion-resnet", "depth": depth, "width": 128, "seeds": 3}
    why = f"Study B: predictors that trainings do not store, depth {depth}."
    write(f"initial_{depth}", why, {}, fixed, cases, compute="initial")


def study_b() -> None:
    """What is it that predicts?"""
    kernels = input_kernels()
    searched = {"learning_rate": RATES}
    schedule = [{"norm": "dyt", "alpha": c, "schedule": True, "sigma_w": 1.0} for c in (1.0, 0.5, 2.0)]
    layer_norm = [{"norm": "ln", "sigma_w": sigma} for sigma in SIGMAS]
    for depth in (32, 16, 64):
        dyt = factorial("dyt", depth, kernels)
        cases = [
            layer_norm[2],
            *dyt[:8],
            layer_norm[0],
            layer_norm[4],
            *dyt[8:],
            layer_norm[1],
            layer_norm[3],
            *schedule,
        ]
        fixed = {"task": "fashion-resnet", "depth": depth, "width": 128, "steps": 1500, "batch": 128, "seeds": 3}
        write(
            f"factorial_{depth}",
            f"Study B: alpha apart from log J, depth {depth}.",
            searched,
            fixed,
            cases,
            "learning_rate",
        )
        if depth != 32:
            before_training(depth, cases)
    fixed = {"task": "fashion-resnet", "depth": 32, "width": 128, "batch": 128, "seeds": 3}
    powers = [solved(norm, 1.0, target, 32, kernels) for target in (4, 8, 16) for norm in POWERS]
    rms = [{"norm": "rms", "sigma_w": sigma} for sigma in SIGMAS]
    families = [*powers, *rms, *factorial("derf", 32, kernels)]
    why = "Study B: other functions and RMSNorm, depth 32."
    write("families_32", why, searched, {**fixed, "steps": 1500}, families, "learning_rate")
    before_training(32, [*map(dict, read_study(FOLDER / "factorial_32.yaml").cases), *families])
    dyt = factorial("dyt", 32, kernels)
    half = [layer_norm[2], *dyt[:8], layer_norm[0], layer_norm[4], *dyt[8:10], schedule[0]]
    why = "Study B: half of the choices for twice as long, depth 32."
    write("long_32", why, {"learning_rate": [1e-3, 3e-3, 1e-2]}, {**fixed, "steps": 3000}, half)


def study_a() -> None:
    """Doshi's plane: the cases in the order in which they say most, the rates with the likeliest best one first."""
    sigma_w = [float(f"{(0.5 * k) ** 0.5:.5g}") for k in range(1, 11)]
    sigma_b = [float(f"{(0.2 * k) ** 0.5:.5g}") for k in range(10)]
    grid = {"learning_rate": [3e-2, 3e-1, 3e-3], "sigma_w": sigma_w, "sigma_b": sigma_b}
    fixed = {
        "task": "fashion-mlp",
        "activation": "erf",
        "depth": 50,
        "width": 128,
        "steps": 1000,
        "batch": 128,
        "seeds": 1,
    }
    kinds = [("none", 0.0), ("none", 1.0), ("ln", 1.0), ("none", 0.9), ("ln", 0.9)]
    cases = [{"norm": norm, "mu": mu} for norm, mu in kinds]
    plain = {**fixed, "optimizer": "sgd", "decay": "constant"}
    write("plane", "Study A: Doshi's plane.", grid, plain, cases)
    coarse = {**grid, "sigma_w": sigma_w[::2], "sigma_b": sigma_b[::2]}
    write(
        "plane_residual", "Study A: Doshi's plane with skips, every other value of both axes.", coarse, plain, cases[1:]
    )


def study_c() -> None:
    """The source's trainings at our scale; ``vit_alpha`` is the held-out task, whose rates are searched."""
    fixed = {
        "task": "fashion-vit",
        "width": 32,
        "batch": 32,
        "steps": 1500,
        "seeds": 3,
        "weight_decay": 0.05,
        "every": 1500,
    }
    layer_norm: dict[str, Any] = {"norm": "ln"}

    def dyt(*alphas: float) -> list[dict[str, Any]]:
        return [{"norm": "dyt", "alpha": alpha} for alpha in alphas]

    gains = [{**choice, "mlp_gain": gain} for gain in (1.0, 2.0) for choice in (layer_norm, *dyt(*ALPHAS))]
    schedule = {"norm": "dyt", "prescription": "schedule"}
    cosine = {**fixed, "decay": "cosine", "depth": 12}
    why = "Study C, held out: alpha and weights at searched rates."
    write("vit_alpha", why, {"learning_rate": RATES}, cosine, [*gains, schedule], "learning_rate")
    rates = {"depth": [12], "learning_rate": [3e-4, 1e-3, 3e-3, 1e-2]}
    constant = {**fixed, "decay": "constant"}
    write("vit_rates", "Study C: rate and norm without warm-up.", rates, constant, [layer_norm, *dyt(0.5, 1.0)])
    why = "Study C: warm-up and alpha at one rate."
    warm_up = {"warm_up": [0, 50, 150, 450]}
    choices = [layer_norm, *dyt(0.3, 0.5, 0.7, 1.0)]
    write("vit_warm_up", why, warm_up, {**constant, "depth": 12, "learning_rate": 3e-3}, choices)
    small = [layer_norm, *dyt(0.4, 0.6, 0.8)]
    why = "Study C: depth and alpha, LayerNorm beside them; those of 12 blocks are in vit_gain."
    write("vit_depth", why, {"depth": [18, 24]}, {**constant, "learning_rate": 1e-3, "warm_up": 150}, small)
    why = "Study C: weights of the MLPs and alpha, LayerNorm beside them."
    weights = {**constant, "depth": 12, "learning_rate": 1e-3, "warm_up": 150}
    write("vit_gain", why, {"mlp_gain": [1.0, 1.8, 2.6, 3.4, 4.2]}, weights, small)
    why = "Study C: small alpha for twice the steps."
    long = {**constant, "steps": 3000, "depth": 12, "warm_up": 300}
    write("vit_small", why, {"learning_rate": [1e-3]}, long, [layer_norm, *dyt(0.05, 0.1, 0.2, 0.3, 0.5)])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    study_a()
    study_b()
    study_c()


if __name__ == "__main__":
    main()
