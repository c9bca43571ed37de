"""Closed forms at great depth against recursions run to great depth."""

import math

import numpy as np
import pytest
from scipy.special import erf

from criticality.phases import BlockStep, ResidualStep, amplification
from criticality.phases.asymptotics import (
    crossover_depth,
    crossover_depth_small_alpha,
    layer_norm_critical_bias,
    layer_norm_exponent,
    layer_norm_exponent_with_attention,
    layer_norm_susceptibility,
    linear_rate,
    saturated_correlation,
    stretched_growth,
    stretched_scale,
)
from criticality.phases.tails import saturation_deficit
from criticality.pointwise import Pointwise, get_function, pointwise_function
from criticality.theory import MLP, Attention, Linear, PointwiseNorm, make_norm, transformer

RATIOS = [(0.09437184, 0.37748736), (1.50994944, 0.37748736), (0.09437184, 6.03979776), (1.50994944, 6.03979776)]
"""``(s_VO, m)``, with ``m / s_VO`` 4, 1/4, 64 and 4."""


SIGMOID = pointwise_function(
    lambda x: (1 + np.tanh(x / 2)) / 2, lambda x: (1 - np.tanh(x / 2) ** 2) / 4, name="sigmoid", kinks=()
)


def two_orders(depths, log_j):
    """Rate and coefficient of the logarithm from four depths, with the constant and the next order ``L^(-1/2)`` eliminated."""
    terms = np.stack([np.sqrt(depths), np.log(depths), np.ones(4), np.power(depths, -0.5)], axis=1)
    return np.linalg.solve(terms, log_j)[:2]


def erf_blocks(s, m, tokens, depths):
    """``log J(0 -> L)`` of blocks of uniform attention and ReLU MLP after erf, in closed form; the first row ``(a, b)`` of the
    product of the maps of ``(u, v)``."""
    q, p, a, b, log_j, found = 1.0, 0.03, 1.0, 0.0, 0.0, []

    def norm():
        value, pair = (2 / math.pi * math.asin(2 * x / (1 + 2 * q)) for x in (q, p))
        return value, pair, 4 / math.pi / math.sqrt(1 + 4 * q), 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - 4 * p * p)

    for layer in range(1, max(depths) + 1):
        value, pair, slope, slopes = norm()
        to_values = s * (a * slope + b * slopes) / tokens
        a, b = a + to_values, b + (tokens - 1) * to_values
        mean = s * (value + (tokens - 1) * pair) / tokens
        q, p = q + mean, p + mean
        value, pair, slope, slopes = norm()
        rho = pair / value
        a, b = a * (1 + m / 2 * slope), b * (1 + m * (0.25 + math.asin(rho) / (2 * math.pi)) * slopes)
        q += m / 2 * value
        p += m * value * (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
        log_j, a, b = log_j + math.log(a), 1.0, b / a
        if layer in depths:
            found.append(log_j)
    return np.array(found)


def erf_crossing(alpha, weight_variance):
    """Layers of ``K' = K + sigma^2 (2/pi) asin(2 s / (1 + 2 s))`` until ``s = alpha^2 K = 1``, interpolated linearly."""
    s, layer = alpha**2, 0
    while True:
        after = s + alpha**2 * weight_variance * 2 / math.pi * math.asin(2 * s / (1 + 2 * s))
        if after >= 1:
            return layer + (1 - s) / (after - s)
        s, layer = after, layer + 1


@pytest.mark.parametrize(
    ("name", "integral", "deficit"),
    [("tanh", 4 / 3, 2.0), ("erf", 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi))],
)
def test_two_orders_in_closed_form(name, integral, deficit):
    found = stretched_growth(get_function(name), 0.7, 1.3)
    assert found.rate == pytest.approx(2 * 0.7 * math.sqrt(1.3 / (2 * math.pi)) * integral, rel=1e-12)
    logarithm = integral / (4 * math.pi) * (2 * deficit - 0.49 * 1.3 * integral)
    assert found.logarithm == pytest.approx(logarithm, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "alpha", "weight", "bias"),
    [("tanh", 1.0, 1.0, 0.0), ("tanh", 2.0, 1.0, 0.0), ("erf", 0.5, 2.0, 0.3), (SIGMOID, 1.0, 1.5, 0.0)],
)
def test_two_orders_are_those_of_the_recursion(name, alpha, weight, bias):
    function = get_function(name) if isinstance(name, str) else name
    found = stretched_growth(function, alpha, weight, bias)
    depths = [10**4, 10**5, 10**6, 10**7]
    step = ResidualStep(PointwiseNorm(Pointwise(function, alpha=alpha)), weight, bias)
    rate, logarithm = two_orders(depths, amplification(step, depths))
    assert found.rate == pytest.approx(rate, rel=1e-5)
    assert found.logarithm == pytest.approx(logarithm, abs=2e-3)


def test_deficit_of_slow_tails():
    def algebraic(x):
        return x / np.sqrt(1 + x * x)

    assert saturation_deficit(pointwise_function(algebraic)) == pytest.approx(math.pi, rel=1e-8)
    one_sided = pointwise_function(lambda x: np.where(x > 0, erf(x), 0.0), name="one-sided", kinks=(0.0,))
    assert saturation_deficit(one_sided) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=1e-10)
    softsign = stretched_growth(get_function("softsign"))
    assert math.isnan(softsign.logarithm)
    assert softsign.rate == pytest.approx(2 * (2 / 3) / math.sqrt(2 * math.pi), rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "sin", "identity"])
def test_what_is_not_a_stretched_exponential_is_refused(name):
    with pytest.raises(ValueError, match="square-integrable"):
        stretched_growth(get_function(name))


def test_linear_regime():
    """A thousandth of the variance at which erf bends, ten layers."""
    step = ResidualStep(make_norm("derf", 0.01))
    rate = linear_rate(get_function("erf"), 0.01)
    assert rate == pytest.approx(math.log1p(4e-4 / math.pi), rel=1e-13)
    assert amplification(step, [10], q0=1e-3)[0] == pytest.approx(10 * rate, rel=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.2116])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.7])
def test_crossover(alpha, weight):
    exact, function = erf_crossing(alpha, weight), get_function("erf")
    assert crossover_depth(function, alpha, weight) == pytest.approx(exact, rel=2.5e-3)
    low = math.log(alpha**-2) / linear_rate(function, alpha, weight)
    assert low < exact / 1.3
    if alpha <= 0.05:
        assert crossover_depth_small_alpha(function, alpha, weight) == pytest.approx(exact, rel=1.3e-3)


def test_crossover_at_its_ends():
    function = get_function("tanh")
    assert crossover_depth(function, 1.0) == crossover_depth(function, 0.5, q0=5.0) == 0.0
    assert crossover_depth(function, 0.5, weight_variance=0.0) == math.inf
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            crossover_depth(function, value)
    with pytest.raises(ValueError, match="phi\\(0\\)"):
        crossover_depth(SIGMOID, 0.5)


@pytest.mark.parametrize(
    ("name", "weight", "bias"), [("erf", 1.0, 0.0), ("tanh", 1.5, 0.2), ("gelu", 0.7, 0.0), ("relu", 1.0, 0.0)]
)
def test_layer_norm_exponent(name, weight, bias):
    """Gain of the layer at variance ``q``: ``sigma^2 D / q``, so that ``J`` is a product over ``q = 1 + g l``."""
    moments = Pointwise(get_function(name))
    grown, gain = weight * float(moments.V(1.0)) + bias, weight * float(moments.D(1.0))
    log_j = np.cumsum(np.log1p(gain / (1 + grown * np.arange(1_000_000.0))))
    slope = (log_j[-1] - log_j[99_999]) / math.log(10)
    assert layer_norm_exponent(get_function(name), weight, bias) == pytest.approx(slope, abs=2e-5)


def test_layer_norm_exponents_of_erf_and_tanh():
    """erf: ``(4/pi) / sqrt 5`` over ``(2/pi) asin(2/3)``."""
    assert layer_norm_exponent(get_function("erf")) == pytest.approx(2 / math.sqrt(5) / math.asin(2 / 3), rel=1e-12)
    assert layer_norm_exponent(get_function("identity")) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("skip", "weight", "bias"), [(0.0, 1.5, 0.1), (0.5, 1.0, 0.0), (0.9, 2.0, 0.4), (1.0, 0.7, 0.0)]
)
def test_susceptibility_of_layer_norm(skip, weight, bias):
    moments = Pointwise(get_function("erf"))
    value, slope = float(moments.V(1.0)), float(moments.D(1.0))
    q = 1.0
    for _ in range(2000):
        q = skip**2 * q + weight * value + bias
    found = layer_norm_susceptibility(get_function("erf"), weight, bias, skip)
    assert found == pytest.approx(skip**2 + weight * slope / q, abs=1e-3 if skip == 1 else 1e-12)


def test_critical_bias_of_layer_norm():
    function = get_function("erf")
    bias = layer_norm_critical_bias(function, 2.0)
    assert math.sqrt(bias / 2) == pytest.approx(0.3238, abs=1e-4)
    for skip in (0.0, 0.6):
        assert layer_norm_susceptibility(function, 2.0, bias, skip) == pytest.approx(1.0, abs=1e-12)
    assert layer_norm_critical_bias(get_function("relu")) == 0.0
    with pytest.raises(ValueError, match="skip"):
        layer_norm_susceptibility(function, 1.0, skip=1.1)


def blocks(norm, value_output, mlp, tokens):
    attention = Attention(value=Linear(value_output), scores="uniform")
    return BlockStep(transformer(norm, attention, MLP(Pointwise("relu"), Linear(mlp)), 1), tokens, 0.03)


@pytest.mark.parametrize(("value_output", "mlp"), [RATIOS[0]])
def test_exponent_with_attention(value_output, mlp):
    """So many tokens that their common mode, of exponent 1, has not taken over."""
    found = layer_norm_exponent_with_attention(value_output, mlp)
    log_j = amplification(blocks(make_norm("ln", epsilon=0.0), value_output, mlp, 10**15), [1e8, 1e9])
    assert found == pytest.approx(mlp / (mlp + 2 * value_output), rel=1e-14)
    assert found == pytest.approx((log_j[1] - log_j[0]) / math.log(10), abs=3e-3)


@pytest.mark.parametrize(("value_output", "mlp"), RATIOS)
def test_saturated_correlation(value_output, mlp):
    """The fixed point of signs, iterated: ``q`` and ``p`` grow by ``s P + m/2`` and ``s P + m kappa(P)`` a block."""
    c = 0.0
    for _ in range(3000):
        p = 2 / math.pi * math.asin(c)
        kappa = (math.sqrt(1 - p * p) + p * (math.pi - math.acos(p))) / (2 * math.pi)
        c = (value_output * p + mlp * kappa) / (value_output * p + mlp / 2)
    np.testing.assert_allclose(saturated_correlation(value_output, mlp), (c, 2 / math.pi * math.asin(c)), atol=1e-10)


@pytest.mark.parametrize(("value_output", "mlp"), [RATIOS[0], RATIOS[2], RATIOS[3]])
def test_stretched_scale(value_output, mlp):
    depths = [1000, 5000, 25_000, 125_000]
    rate = two_orders(depths, erf_blocks(value_output, mlp, 197, depths))[0]
    found = 1 / math.sqrt(stretched_scale(value_output, mlp, tokens=197))
    assert found == pytest.approx(rate, rel=3e-3)
    closed = (mlp / 2 + value_output * saturated_correlation(value_output, mlp)[1]) / (2 / math.pi * mlp) ** 2
    assert stretched_scale(value_output, mlp) == pytest.approx(closed, rel=1e-12)


def test_the_recursion_of_blocks_is_that_of_the_library():
    step = blocks(make_norm("derf", 1.0), 1.2, 0.7, 40)
    np.testing.assert_allclose(erf_blocks(1.2, 0.7, 40, [1, 60]), amplification(step, [1, 60]), rtol=1e-10)


def test_limits_and_refusals_of_attention():
    assert saturated_correlation(1.0, 0.0) == (1.0, 1.0)
    assert layer_norm_exponent_with_attention(0.0, 0.3) == 1.0
    # without attention the block is one branch of variance m/2 and slope m/2
    one = stretched_growth(get_function("tanh"), 0.6, 0.4).rate
    assert 1 / math.sqrt(stretched_scale(0.0, 0.8, 0.6, "tanh")) == pytest.approx(one, rel=1e-12)
    for arguments, message in [
        ((0.0, 0.0), "mlp_variance"),
        ((-1.0, 1.0), "value_output"),
        ((1.0, 0.0), "mlp_variance"),
    ]:
        with pytest.raises(ValueError, match=message):
            stretched_scale(*arguments)
    for function, message in [(SIGMOID, "opposite"), ("relu", "bounded")]:
        with pytest.raises(ValueError, match=message):
            stretched_scale(1.0, 1.0, function=function)
