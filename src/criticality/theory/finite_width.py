"""How much ``log J`` scatters between weight seeds at finite width: when one seed is enough.

For ``x <- x + W phi(alpha x)`` of width ``n`` (docs/theory, section 9), to leading order in ``1/n``:

- the stream: moments are averages over ``n`` coordinates, each a Gaussian random walk; their fluctuations move every later
  variance, and with it every later susceptibility. ``Var = Var(Y) / n``, ``Y`` a functional of one walk;
- the weights: layer by layer, ``2 m c / n^2`` with ``c = (2 sigma^2 E w phi'^2 + sigma^4 E phi'^4) / chi^2``, ``w`` the
  squared gradient of a coordinate with mean 1. For the whole trace ``m`` is the second moment of the backward kernel's
  spectrum, 1 at the output and ``m <- m + c`` towards the input; for one random probe ``m = n``, and for several their
  mean, weighted. So one probe scatters as ``L / n``, the trace as ``(L / n)^2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from criticality.arguments import Count, Depth, Positive, Seed, Size, checked
from criticality.errors import ArgumentError
from criticality.pointwise import Pointwise
from criticality.theory.layer import Layer
from criticality.theory.norms import PointwiseNorm


@dataclass(frozen=True)
class LogVariance:
    """Variance of ``log J(0 -> L)`` between weight seeds.

    Attributes:
        stream: share of the fluctuations of the forward pass, ``~ 1/n``.
        weights: share of those of the backward pass.
        stream_se: standard error of ``stream``, which is averaged over sampled walks.
    """

    stream: float
    weights: float
    stream_se: float

    @property
    def total(self) -> float:
        """Both together; they are independent to leading order."""
        return self.stream + self.weights

    def seeds_for(self, error: float) -> int:
        """Seeds after which the standard error of ``log J`` is ``error``.

        Raises:
            ValueError: an ``error`` that is not positive.
        """
        if not error > 0:
            raise ArgumentError(f"error={error!r} must be above 0")
        return max(1, math.ceil(self.total / error**2))


@checked
def log_apjn_variance(
    pointwise: Pointwise,
    depth: Depth,
    width: Size,
    *,
    weight_variance: Positive = 1.0,
    q0: Positive = 1.0,
    probes: Count | None = 1,
    walks: Size = 20_000,
    seed: Seed = 0,
) -> LogVariance:
    """Variance of ``log J(0 -> depth)`` of residual networks of one token between seeds of weights and inputs.

    Args:
        pointwise: ``phi``, with its ``alpha``.
        depth, width: layers and channels; an expansion in ``depth / width``, good to a tenth or so while it is below 1/2.
        weight_variance: ``sigma_w^2``.
        q0: variance of the input's independent Gaussian coordinates.
        probes: random probes (times tokens) of the measurement; ``None`` for the whole trace.
        walks, seed: of the average over walks.

    Raises:
        ValueError: a depth, width, number of probes or variance that is not allowed.
    """
    one = Layer(PointwiseNorm(pointwise), weight_variance)
    q, chi = np.array(list(islice(one.states(q0), depth + 1))).T
    shift = 1e-4
    value_slope, gain_slope = (
        weight_variance * (moment(q[:-1] * (1 + shift)) - moment(q[:-1] * (1 - shift))) / (2 * shift * q[:-1])
        for moment in (pointwise.V, pointwise.D)
    )
    later = np.zeros(depth + 1)  # d log J / d q at each layer
    for layer in reversed(range(depth)):
        later[layer] = gain_slope[layer] / chi[layer] + later[layer + 1] * (1 + value_slope[layer])
    rng = np.random.default_rng(seed)
    x = math.sqrt(q0) * rng.standard_normal(walks)
    influence, slopes = np.zeros(walks), np.empty((depth, walks), dtype=np.float32)
    for layer in range(depth):
        u = pointwise.alpha * x + pointwise.shift
        value = (pointwise.gamma * pointwise.phi.value(u) + pointwise.beta) ** 2
        slope = (pointwise.gamma * pointwise.alpha * pointwise.phi.derivative(u)) ** 2
        influence += weight_variance * (slope / chi[layer] + later[layer + 1] * value)
        slopes[layer] = slope
        x = x + math.sqrt(q[layer + 1] - q[layer]) * rng.standard_normal(walks)
    spread = influence - influence.mean()
    stream = float(np.mean(spread**2)) / width
    stream_se = float(np.std(spread**2)) / math.sqrt(walks) / width
    share = 0.0 if probes is None else 1 / probes  # of a probe's own square in that of all
    weights, spectrum = 0.0, 1.0
    gradient = np.ones(walks)  # squared, of each coordinate: larger where slopes were large
    for layer in reversed(range(depth)):
        slope = slopes[layer].astype(float)
        crossed = 2 * weight_variance * float(np.mean(gradient * slope) / np.mean(gradient))
        strength = (crossed + weight_variance**2 * float(np.mean(slope**2))) / chi[layer] ** 2
        weights += 2 * (share * width + (1 - share) * spectrum) * strength / width**2
        spectrum += strength
        gradient = gradient + weight_variance * slope * np.mean(gradient)
        gradient /= np.mean(gradient)
    return LogVariance(stream, weights, stream_se)
