"""The one-branch residual network x + W phi(alpha x): recursions, other libraries, wide networks, asymptotics."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from criticality.pointwise import Pointwise
from criticality.theory import (
    Attention,
    GatedMLP,
    HeadNorm,
    Linear,
    Network,
    Parallel,
    Rotary,
    Sublayer,
    SymmetricKernel,
    make_norm,
    propagate,
    resnet,
)

NEURAL_TANGENTS = json.loads((Path(__file__).parents[1] / "data" / "neural_tangents.json").read_text())["rows"]


def _erf_moments(s):
    return 2 / np.pi * np.arcsin(2 * s / (1 + 2 * s)), 4 / np.pi / np.sqrt((1 + 2 * s) ** 2 - 4 * s * s)


def _tanh_moments(s):
    """The trapezoidal rule on a grid that is fine beside the poles of tanh: exponentially exact, and slow."""
    z = np.arange(-9.5, 9.5, min(0.1, 0.17 / math.sqrt(s)))
    weights = np.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    tanh = np.tanh(math.sqrt(s) * z)
    return np.sum(weights * tanh**2), np.sum(weights * (1 - tanh**2) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.02, 0.5, 5.0])
@pytest.mark.parametrize(("norm", "moments"), [("dyt", _tanh_moments), ("derf", _erf_moments)])
def test_depth_4096_agrees_with_an_independent_recursion(norm, moments, alpha):
    depth, sigma2, q = 4096, 1.0, 1.0
    log_chi = []
    for _ in range(depth):
        value, slope = moments(alpha**2 * q)
        log_chi.append(math.log1p(sigma2 * alpha**2 * slope))
        q += sigma2 * value
    expected = np.append(np.cumsum(log_chi[::-1])[::-1], 0.0)
    profile = propagate(resnet(make_norm(norm, alpha), depth), SymmetricKernel.of(1.0))
    np.testing.assert_allclose(profile.log_apjn, expected, rtol=0, atol=1e-8)
    assert float(profile.q[-1]) == pytest.approx(q, rel=1e-10)


@pytest.mark.parametrize("row", NEURAL_TANGENTS, ids=lambda row: f"alpha={row['alpha']:g}")
def test_erf_kernel_is_that_of_neural_tangents(row):
    (q, p), _ = row["kernel"]
    network = resnet(make_norm("erf", row["alpha"]), row["depth"], row["sigma"] ** 2)
    profile = propagate(network, SymmetricKernel.of(row["q"], row["rho"] * row["q"]))
    assert float(profile.q[-1]) == pytest.approx(q, rel=1e-10)
    assert float(profile.p[-1]) == pytest.approx(p, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["dyt", "derf", "ln", "arctan"])
@pytest.mark.parametrize("alpha", [0.02, 0.5, 5.0])
def test_wide_random_networks_agree_within_three_standard_errors(norm, alpha):
    if norm == "ln" and alpha != 0.5:
        pytest.skip("LayerNorm has no alpha")
    width, depth, seeds, probes = 500, 32, 8, 32
    function = {"dyt": np.tanh, "derf": np.vectorize(math.erf, otypes=[float]), "arctan": np.arctan}.get(norm)
    slopes = {
        "dyt": lambda u: np.cosh(u) ** -2.0,
        "derf": lambda u: 2 / math.sqrt(math.pi) * np.exp(-u * u),
        "arctan": lambda u: 1 / (1 + u * u),
    }
    values = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal(width)
        x *= math.sqrt(width) / np.linalg.norm(x)
        layers = []
        for _ in range(depth):
            weight = generator.standard_normal((width, width)) / math.sqrt(width)
            layers.append((weight, x))
            x = x + weight @ (x / math.sqrt(np.mean(x * x)) if norm == "ln" else function(alpha * x))
        delta = generator.standard_normal((width, probes))
        start = np.sum(delta**2)
        for weight, x in reversed(layers):
            back = weight.T @ delta
            if norm == "ln":
                size = math.sqrt(np.mean(x * x))
                unit = x[:, None] / np.linalg.norm(x)
                back = (back - unit * (unit.T @ back)) / size
            else:
                back = alpha * slopes[norm](alpha * x)[:, None] * back
            delta = delta + back
        values.append(np.sum(delta**2) / start)
    log_mean, error = math.log(np.mean(values)), np.std(values, ddof=1) / np.mean(values) / math.sqrt(seeds)
    predicted = propagate(
        resnet(make_norm("rms" if norm == "ln" else norm, None if norm == "ln" else alpha), depth),
        SymmetricKernel.of(1.0),
    )
    assert abs(log_mean - float(predicted.log_apjn[0])) <= 3 * error + 2 * depth / width**1.5


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_stretched_exponential_coefficients(alpha):
    """log J -> c sqrt(L): the slope in sqrt(L) between two great depths (theory.md: 8/(3 sqrt(2 pi)), 4/pi)."""
    for norm, coefficient in (("dyt", 8 / (3 * math.sqrt(2 * math.pi))), ("derf", 4 / math.pi)):
        log_j = [
            float(propagate(resnet(make_norm(norm, alpha), depth), SymmetricKernel.of(1.0)).log_apjn[0])
            for depth in (4096, 16384)
        ]
        slope = (log_j[1] - log_j[0]) / (math.sqrt(16384) - math.sqrt(4096))
        assert slope == pytest.approx(coefficient * alpha, rel=0.03)


def test_layer_norm_is_a_power_law_with_exponent_one():
    """chi_l = 1 + 1/K_l with K_l = 1 + l: J(0 -> L) = L + 1, exactly."""
    depth = 1000
    profile = propagate(resnet(make_norm("ln", epsilon=0.0), depth), SymmetricKernel.of(1.0))
    np.testing.assert_allclose(
        profile.log_apjn, np.log((depth + 1) / (np.arange(depth + 1) + 1)), rtol=1e-10, atol=1e-12
    )


def test_linear_network_is_exponential():
    profile = propagate(resnet(make_norm("identity", 0.3), 50, 2.0), SymmetricKernel.of(1.0))
    np.testing.assert_allclose(profile.log_apjn, math.log1p(2.0 * 0.09) * np.arange(50, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(profile.log_susceptibility[:-1], math.log1p(2.0 * 0.09), rtol=1e-11)


def test_growth_beyond_floating_point_stays_finite_in_the_logarithm():
    profile = propagate(resnet(make_norm("identity", 1.0), 660, 1.0), SymmetricKernel.of(1.0))
    assert float(profile.log_apjn[0]) == pytest.approx(660 * math.log(2.0), rel=1e-12)
    with pytest.raises(ValueError, match="must keep a finite kernel, but its variance overflows"):
        propagate(resnet(make_norm("identity"), 2000), SymmetricKernel.of(1.0))


def test_profiles_multiply_along_depth():
    """The product rule: J(0 -> L) of one network is J(0 -> m) J(m -> L) for a stream of one kernel."""
    norm = make_norm("dyt", 0.7)
    whole = propagate(resnet(norm, 40), SymmetricKernel.of(1.0))
    first = propagate(resnet(norm, 15), SymmetricKernel.of(1.0))
    second = propagate(resnet(norm, 25), SymmetricKernel.of(float(first.q[-1])))
    assert float(whole.log_apjn[0]) == pytest.approx(float(first.log_apjn[0] + second.log_apjn[0]), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet(make_norm("dyt", -1.0), 4), "alpha=-1.0 must be a finite number above 0"),
        (lambda: resnet(make_norm("nope"), 4), "norm 'nope' is unknown"),
        (lambda: resnet(make_norm("dyt"), 0), "depth=0 must be a whole number"),
        (lambda: resnet(make_norm("dyt"), 4, -1.0), "weight_variance=-1.0 must be a finite variance"),
        (lambda: Attention(heads=0), "heads=0 of Attention"),
        (lambda: Attention(scores="hard"), "scores='hard' of Attention"),
        (lambda: SymmetricKernel.of(-1.0), "q=-1.0 must be a finite variance"),
        (lambda: SymmetricKernel.of(1.0, 2.0), "p=2.0 must be a covariance"),
        (lambda: Network(()), r"sublayers=\(\) of Network"),
        (lambda: Sublayer(Linear(), placement="side"), "placement='side' of Sublayer"),
        (lambda: Sublayer(Linear(), skip_scale=2.0), "skip_scale=2.0 of Sublayer must come with placement='post'"),
        (lambda: GatedMLP(Pointwise("silu"), ratio=0.0), "ratio=0.0 of GatedMLP"),
        (lambda: Parallel(()), r"branches=\(\) of Parallel"),
        (lambda: Attention(heads=6, key_value_heads=4), "key_value_heads=4 of Attention must divide heads=6"),
        (lambda: Attention(window=4), "window=4 of Attention must come with causal=True"),
        (lambda: Attention(rotary=Rotary((1.0,))), "rotary of Attention must come with head_dim"),
        (lambda: Attention(query_norm=HeadNorm()), "query_norm of Attention must come with head_dim"),
        (lambda: Rotary(), "Rotary must have either frequencies or positions"),
        (lambda: Rotary((float("nan"),)), r"frequencies\[0\]=nan of Rotary must be a finite number"),
        (lambda: Rotary.standard(1), "must be above 0 and turn a pair of head_dim=1"),
        (lambda: HeadNorm(-1.0), "epsilon=-1.0 of HeadNorm must be a finite number"),
        (lambda: propagate(resnet(make_norm("dyt"), 2), []), "inputs must be one kernel or several"),
        (lambda: propagate(resnet(make_norm("dyt"), 2), SymmetricKernel.of(1.0), samples=3), "samples=3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
