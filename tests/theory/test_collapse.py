"""Exponents near collapse against iterated kernels written apart, closed forms, and the maps of any block."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.errors import UndescribedError
from criticality.phases import collapse_map
from criticality.pointwise import Pointwise, get_function
from criticality.theory import (
    MLP,
    Attention,
    LayerNorm,
    Linear,
    NoNorm,
    Normed,
    Sublayer,
    SymmetricKernel,
    collapse_exponents,
    make_norm,
    propagate,
    resnet,
    transformer,
)


def cowsik(a, b, sigma_w, name="tanh"):
    """``x <- sqrt(1-a^2) x + a attn(LN x)``, ``x <- sqrt(1-b^2) x + b W phi(W1 LN x)``."""
    branches = (Attention(scores="uniform"), MLP(Pointwise(name), Linear(sigma_w**2)))
    return tuple(
        Sublayer(Normed(LayerNorm(0.0), branch), NoNorm(), weight, "post", skip_scale=math.sqrt(1 - weight**2))
        for weight, branch in zip((a, b), branches, strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "angle", "gradient"), [((0.5, 0.5, 2.0), -0.235685, 0.115746), ((0.3, 0.6, 3.0), 0.202493, 0.321826)]
)
def test_the_values_of_the_source(settings, angle, gradient):
    a, b, sigma_w = settings
    value = float(Pointwise("tanh").V(sigma_w**2))
    q = ((1 - b * b) * a * a + b * b * value) / (1 - (1 - b * b) * (1 - a * a))
    found = collapse_exponents(cowsik(*settings), q, 64)
    assert found == pytest.approx((angle, gradient), abs=1e-6)
    mapped = collapse_map(get_function("tanh"), sigma_w, attention_weight=a, mlp_weight=b)
    assert (float(mapped[0]), float(mapped[1])) == pytest.approx(found, abs=1e-9)


def test_the_angle_exponent_is_that_of_a_kernel_iterated():
    """``1 - rho`` of two tokens that start apart by 1e-6, through ten blocks of cubature in float64, uniform attention."""
    a, b, sigma_w = 0.4, 0.5, 1.2
    tanh = Pointwise("tanh")
    value = float(tanh.V(sigma_w**2))
    q = ((1 - b * b) * a * a + b * b * value) / (1 - (1 - b * b) * (1 - a * a))
    found = collapse_exponents(cowsik(a, b, sigma_w), q, 8)
    x = np.polynomial.hermite_e.hermegauss(120)
    nodes, weights = x[0], x[1] / x[1].sum()
    p, gaps = q * (1 - 1e-6), []
    for _ in range(10):
        rho = p / q
        mean = (1 + 7 * rho) / 8
        q1, p1 = (1 - a * a) * q + a * a * mean, (1 - a * a) * p + a * a * mean
        rho = p1 / q1
        left = np.tanh(sigma_w * nodes)[:, None]
        right = np.tanh(sigma_w * (rho * nodes[:, None] + math.sqrt(1 - rho * rho) * nodes))
        gap = float(np.sum(weights[:, None] * weights * (left - right) ** 2)) / 2  # V - C, without cancellation
        q, p = (1 - b * b) * q1 + b * b * value, (1 - b * b) * p1 + b * b * (value - gap)
        gaps.append(math.log(1 - p / q))
    assert (gaps[-1] - gaps[-4]) / 3 == pytest.approx(found.angle, abs=1e-5)


@pytest.mark.parametrize("norm", [make_norm("ln"), make_norm("derf", 1.3)], ids=["ln", "derf"])
def test_both_are_slopes_of_the_library_at_finite_differences(norm):
    """Any pre-norm block: a small angle forward, and pooled gradients backward."""
    network = transformer(norm, Attention(value=Linear(0.8)), MLP(Pointwise("gelu"), Linear(1.4), Linear(1.7)), 1)
    found, q, small = collapse_exponents(network.last_block, 2.5, 16), 2.5, 1e-4
    after = propagate(network, SymmetricKernel.of(q, q * (1 - small), 16))
    angle = math.log((1 - float(after.correlation[-1])) / small)
    assert found.angle == pytest.approx(angle, abs=5e-3)
    pooled = propagate(network, SymmetricKernel.of(q, q, 16), probe="pooled")
    assert found.gradient == pytest.approx(float(pooled.log_apjn[0]), abs=1e-9)


def test_layer_norm_with_a_skip_of_one_has_none_at_depth():
    network = transformer(make_norm("ln"), Attention(), MLP(Pointwise("relu")), 1)
    shallow, deep = (collapse_exponents(network.last_block, q, 16) for q in (1e2, 1e6))
    assert max(abs(one) for one in deep) < 2e-4 * max(abs(one) for one in shallow) * 1.1
    with pytest.raises(UndescribedError):
        collapse_exponents(
            transformer(make_norm("ln"), Attention(causal=True), MLP(Pointwise("relu")), 1).last_block, 1.0
        )
    with pytest.raises(ValueError, match=r"q=0\.0"):
        collapse_exponents(network.last_block, 0.0)


def test_predict_and_phases_print_them():
    run = CliRunner().invoke(main, ["predict", "resnet", "--norm", "dyt", "--depth", "20", "--json"])
    record = json.loads(run.output)
    q = record["q_profile"][-2]
    expected = collapse_exponents(resnet(make_norm("dyt"), 1).last_block, q)
    assert (record["angle_exponent"], record["gradient_exponent"]) == pytest.approx(expected, abs=1e-12)
    assert "lambda_a" in CliRunner().invoke(main, ["predict", "resnet"]).output
    run = CliRunner().invoke(main, ["phases", "block", "--points", "6", "--function", "tanh", "--json"])
    record = json.loads(run.output)
    assert np.shape(record["gradient_exponent"]) == np.shape(record["angle_exponent"]) == (6, 6)
