"""At large width branch outputs are orthogonal to the stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.stats import linregress
from torch import Tensor, nn

from claim.drawing import Data, line, points, width_axis
from claim.outcome import Breaker, Claim, Outcome
from criticality.models import ResidualNetwork, gaussian_inputs


def decide(
    seed: int,
    make: Callable[[int], nn.Module] | None = None,
    widths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
    seeds: int = 12,
) -> Outcome:
    """Cosine of each branch output and the stream it is added to, in networks of growing width."""
    make = make or (lambda width: ResidualNetwork(width, 8, "dyt", 1.0))
    cosines, pythagoras = [], []
    for width in widths:
        found = []
        for number in range(seeds):
            with torch.random.fork_rng():
                torch.manual_seed(seed + number)
                model: Any = make(width)
            found.append(_branch_angles(model, gaussian_inputs(4, width, seed + number)))
        angles, sums = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        cosines.append((math.sqrt(np.mean(angles**2)), np.std(angles**2) / math.sqrt(angles.size)))
        pythagoras.append((math.sqrt(np.mean(sums**2)), np.std(sums**2) / math.sqrt(sums.size)))
    rms = np.array([c[0] for c in cosines])
    fit = linregress(np.log(widths), np.log(rms))
    constant = float(rms[-1] * math.sqrt(widths[-1]))
    good = abs(fit.slope + 0.5) < max(3 * fit.stderr, 0.03) and abs(constant - 1) < 0.1
    return Outcome(
        "holds" if good else "fails",
        f"Root mean square cosine between branch output and stream, 8 blocks, widths {widths[0]} to {widths[-1]},"
        f" {seeds} seeds.",
        f"It falls as width^({fit.slope:.3f} ± {fit.stderr:.3f}) (expected -1/2) and is {constant:.3f}/sqrt(n) at the"
        f" largest width (expected 1/sqrt(n)); |x + b|^2 differs from |x|^2 + |b|^2 by"
        f" {100 * pythagoras[-1][0]:.2f} per cent there, by {100 * pythagoras[0][0]:.0f} at width {widths[0]}.",
        {"slope": float(fit.slope), "slope_se": float(fit.stderr), "constant": constant},
        {
            "width": list(widths),
            "cosine": rms.tolist(),
            "cosine_se": [c[1] / (2 * c[0]) for c in cosines],
            "pythagoras": [p[0] for p in pythagoras],
        },
    )


def _branch_angles(model: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of branch and stream, and relative errors of Pythagoras, of every block and token."""
    cosines, sums = [], []
    with torch.no_grad():
        for block in model.blocks:
            after = block(x)
            branch = after - x
            squares = x.square().sum(-1) + branch.square().sum(-1)
            product = (x * branch).sum(-1)
            cosines.append(product / (x.norm(dim=-1) * branch.norm(dim=-1)))
            sums.append(after.square().sum(-1) / squares - 1)
            x = after
    return torch.stack(cosines).double().numpy().ravel(), torch.stack(sums).double().numpy().ravel()


def draw(axes: Sequence[Axes], data: Data) -> None:
    width = np.array(data["width"], dtype=float)
    line(axes[0], width, width**-0.5, 0, r"$1/\sqrt{n}$")
    points(axes[0], width, data["cosine"], data["cosine_se"], 1, "cosine of branch and stream")
    points(axes[0], width, data["pythagoras"], None, 2, r"error of $|x|^2 + |b|^2$")
    axes[0].set(yscale="log", ylabel="root mean square")
    width_axis(axes[0], width)
    axes[0].legend()


class Tied(nn.Module):
    """Branches without random weights, along the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [lambda x: x + torch.tanh(x)] * 3


CLAIM = Claim(
    key="orthogonality",
    statement="At large width branch outputs are orthogonal to the stream: variances add (Pythagoras).",
    decide=decide,
    verdict="holds",
    breakers=(
        Breaker(
            "branches x + tanh(x), without random weights",
            lambda seed: decide(seed, lambda width: Tied(), widths=(32, 64, 128), seeds=3),
        ),
    ),
    draw=draw,
)
