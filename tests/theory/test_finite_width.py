"""The scatter of log J between seeds against random networks, and against closed forms."""

import math

import numpy as np
import pytest

from criticality.pointwise import Pointwise
from criticality.theory.finite_width import log_apjn_variance


def scatter(pointwise, depth, width, seeds, weight_variance=1.0):
    """Variance of log J over seeds: of one probe, and of the whole trace."""
    rng, logs = np.random.default_rng(3), []
    for _ in range(seeds):
        x, layers = rng.standard_normal(width), []
        for _ in range(depth):
            weight = math.sqrt(weight_variance / width) * rng.standard_normal((width, width))
            u = pointwise.alpha * x
            layers.append((weight, pointwise.alpha * pointwise.phi.derivative(u)))
            x = x + weight @ pointwise.phi.value(u)
        probe, jacobian = rng.standard_normal(width), np.eye(width)
        size = probe @ probe
        for weight, slope in reversed(layers):
            probe = probe + slope * (weight.T @ probe)
            jacobian = jacobian + slope[:, None] * (weight.T @ jacobian)
        logs.append((math.log(probe @ probe / size), math.log(np.sum(jacobian**2) / width)))
    return np.var(logs, axis=0, ddof=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alpha", "depth", "width", "weight_variance"),
    [("tanh", 1.0, 16, 96, 1.0), ("erf", 2.0, 24, 96, 0.5), ("tanh", 0.3, 32, 64, 1.0), ("identity", 1.0, 6, 64, 0.3)],
)
def test_random_networks(name, alpha, depth, width, weight_variance):
    pointwise, seeds = Pointwise(name, alpha=alpha), 500
    measured = scatter(pointwise, depth, width, seeds, weight_variance)
    for value, probes in zip(measured, (1, None), strict=True):
        expected = log_apjn_variance(pointwise, depth, width, weight_variance=weight_variance, probes=probes)
        allowed = 3 * math.sqrt(2 / (seeds - 1)) + depth / width / 4
        assert value == pytest.approx(expected.total, rel=allowed)


def test_one_linear_layer_in_closed_form():
    """x + W x, one probe: Var |u + W^T u|^2 / |u|^2 = (4 s + 2 s^2) / n over (1 + s)^2; the stream plays no part."""
    s, width = 0.7, 400
    found = log_apjn_variance(Pointwise("identity"), 1, width, weight_variance=s)
    assert found.stream == pytest.approx(0.0, abs=1e-12)
    assert found.weights == pytest.approx((4 * s + 2 * s * s) / (1 + s) ** 2 / width, rel=1e-6)


def test_scaling_and_seeds():
    """Probes scatter as L / n, the trace as (L / n)^2 beside the stream; the number of seeds follows."""
    tanh = Pointwise("tanh", alpha=0.5)
    small, large = (log_apjn_variance(tanh, 32, width).total for width in (128, 512))
    assert small == pytest.approx(4 * large, rel=1e-9)
    few, many, trace = (log_apjn_variance(tanh, 32, 256, probes=probes).weights for probes in (1, 64, None))
    assert few > 20 * many > 20 * trace
    assert log_apjn_variance(tanh, 32, 256, probes=10**9).weights == pytest.approx(trace, rel=1e-3)
    found = log_apjn_variance(tanh, 32, 256)
    assert found.seeds_for(math.sqrt(found.total / 10.5)) == 11
    assert found.stream_se < 0.05 * found.stream


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth=0 must be a whole number"),
        ({"width": -1}, "width=-1 must be a whole number"),
        ({"probes": 0}, "probes=0 must be a whole number"),
        ({"q0": -1.0}, "q0=-1.0 must be a finite number above 0"),
        ({"weight_variance": math.nan}, "weight_variance=nan must be"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        log_apjn_variance(Pointwise("tanh"), **{"depth": 3, "width": 10, **change})
    with pytest.raises(ValueError, match="error=0 must be above 0"):
        log_apjn_variance(Pointwise("tanh"), 2, 10).seeds_for(0)
