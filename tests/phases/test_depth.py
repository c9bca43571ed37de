"""Any depth at about the price of a few hundred layers, against the plain recursion."""

import math

import numpy as np
import pytest

from criticality.phases import ZOO, BlockStep, ResidualStep, amplification
from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Attention,
    PointwiseNorm,
    SymmetricKernel,
    make_norm,
    propagate,
    resnet,
    transformer,
)

CASES = [
    ("tanh", 1.0, 1.0, 0.0),
    ("tanh", 0.05, 1.0, 0.0),
    ("erf", 3.0, 0.5, 0.0),
    ("erf", 0.5, 2.0, 0.3),
    ("ln", None, 1.0, 0.0),
    ("ln", None, 1.5, 0.5),
    ("identity", 0.01, 1.0, 0.0),
]


def both(step, q):
    change = step.change(np.array([[math.log(q)], [0.0]]))[:, 0]
    return q * math.expm1(change[0]), change[1]


@pytest.mark.parametrize(("norm", "alpha", "weight", "bias"), CASES)
def test_agrees_with_the_plain_recursion(norm, alpha, weight, bias):
    step = ResidualStep(make_norm(norm, alpha, epsilon=0.0), weight, bias)
    depths = [1, 10, 300, 2000, 8000]
    q, total, expected = 1.0, 0.0, {}
    for layer in range(1, depths[-1] + 1):
        f, g = both(step, q)
        q, total = q + f, total + g
        expected[layer] = total
    np.testing.assert_allclose(amplification(step, depths), [expected[depth] for depth in depths], rtol=1e-7)


def test_agrees_with_the_engine_of_the_theory():
    profile = propagate(resnet(make_norm("dyt", 0.7), 2000, 1.3), SymmetricKernel.of(0.4))
    found = amplification(ResidualStep(make_norm("dyt", 0.7), 1.3), [2000], q0=0.4)
    assert found[0] == pytest.approx(float(profile.log_apjn[0]), rel=1e-8)


@pytest.mark.parametrize(("norm", "alpha"), [("ln", None), ("dyt", 0.5), ("derf", 1.0)])
def test_whole_blocks_agree_with_the_engine(norm, alpha):
    """Attention and MLP, tokens that interact: beyond the loop's end, at a depth where the engine can still go."""

    def network(depth):
        return transformer(make_norm(norm, alpha), Attention(), MLP(Pointwise("gelu")), depth)

    inputs = SymmetricKernel.of(0.7, 0.2, 100)
    depths = [1, 30, 3000]
    expected = [float(propagate(network(depth), inputs).log_apjn[0]) for depth in depths]
    found = amplification(BlockStep(network(1), 100, 0.2 / 0.7), depths, q0=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_layer_norm_at_a_billion():
    """J(0 -> L) = L + 1, exactly."""
    found = amplification(ResidualStep(make_norm("ln", epsilon=0.0)), [1e9, 1e6])
    np.testing.assert_allclose(found, [math.log(1e9 + 1), math.log(1e6 + 1)], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_coefficients_of_the_stretched_exponential(alpha):
    """8/(3 sqrt(2 pi)) for tanh, 4/pi for erf, to 1e-4, from the increase between 10^8 and 10^9."""
    for norm, coefficient in (("dyt", 8 / (3 * math.sqrt(2 * math.pi))), ("derf", 4 / math.pi)):
        low, high = amplification(ResidualStep(make_norm(norm, alpha)), [1e8, 1e9])
        assert (high - low) / (1e4 * (math.sqrt(10) - 1)) == pytest.approx(coefficient * alpha, rel=1e-4)


def test_two_thirds_has_the_least_exponent_four():
    step = ResidualStep(PointwiseNorm(Pointwise(ZOO["power0.666667"])))
    low, high = amplification(step, [1e8, 1e9])
    assert (high - low) / math.log(10) == pytest.approx(4.0, abs=2e-3)


def test_values_of_the_theory_page():
    """log J at L = 64 and about 1000, alpha = 1, as theory.md has them."""
    tanh = amplification(ResidualStep(make_norm("dyt", 1.0)), [64, 1024])
    power = amplification(ResidualStep(PointwiseNorm(Pointwise(ZOO["power0.666667"]))), [64, 1000])
    np.testing.assert_allclose(tanh, [8.3, 34.7], atol=0.06)
    np.testing.assert_allclose(power, [8.2, 18.9], atol=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: amplification(ResidualStep(make_norm("dyt")), [0]), r"depths=\[0\] must be whole numbers"),
        (lambda: amplification(ResidualStep(make_norm("dyt")), []), "depths="),
        (lambda: amplification(ResidualStep(make_norm("dyt")), [4], q0=-1.0), "q0=-1.0 must be a finite variance"),
        (lambda: BlockStep(resnet(make_norm("dyt"), 1), 0), "tokens=0 of BlockStep must be a whole number"),
        (lambda: BlockStep(resnet(make_norm("dyt"), 1), 2, 1.5), "rho0=1.5 of BlockStep must be a correlation"),
        (
            lambda: BlockStep(resnet(make_norm("dyt"), 1), branch_scale=-1.0),
            "branch_scale=-1.0 must be finite and above 0",
        ),
        (
            lambda: ResidualStep(make_norm("dyt"), -1.0),
            "weight_variance=-1.0 of ResidualStep must be a finite variance",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
