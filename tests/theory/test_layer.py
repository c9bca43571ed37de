"""The recursion of one layer against closed forms, the engine of networks, and networks one by one."""

import math
from itertools import islice

import numpy as np
import pytest

from criticality.theory import Layer, SymmetricKernel, make_norm, propagate, resnet


@pytest.mark.parametrize("name", ["ln", "none", "dyt", "gelu"])
def test_a_residual_layer_is_the_engine_s(name):
    norm, depth = make_norm(name), 12
    expected = propagate(resnet(norm, depth, 1.3, 0.2), SymmetricKernel.of(0.7, 0.2))
    layer, rho, total = Layer(norm, 1.3, 0.2), 0.2 / 0.7, 0.0
    for block, (q, chi) in enumerate(islice(layer.states(0.7), depth + 1)):
        here = expected.sel(block=block)
        assert float(here.q) == pytest.approx(q, rel=1e-12)
        assert float(here.correlation) == pytest.approx(rho, rel=1e-7)
        assert float(expected.log_apjn[0] - here.log_apjn) == pytest.approx(total, rel=1e-10, abs=1e-10)
        rho, total = layer.correlation(q, rho), total + math.log(chi)


def test_relu_has_closed_forms():
    """``V = q / 2``, ``D = 1 / 2``, and the arc-cosine kernel (Cho and Saul 2009)."""
    weight, bias, skip, alpha, q, rho = 1.7, 0.3, 0.8, 1.4, 2.2, 0.35
    layer = Layer(make_norm("relu"), weight, bias, skip, alpha)
    after, chi = layer.step(q)
    assert after == pytest.approx(skip**2 * q + weight * alpha**2 * q / 2 + bias)
    assert chi == pytest.approx(skip**2 + weight * alpha**2 / 2)
    angle = math.acos(rho)
    pair = alpha**2 * q * (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)
    assert layer.correlation(q, rho) == pytest.approx((skip**2 * q * rho + weight * pair + bias) / after)


def test_many_networks_are_those_one_by_one():
    weights, alphas, skips = np.array([0.5, 2.0])[:, None], np.array([0.3, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])
    grid = list(islice(Layer(make_norm("derf"), weights, 0.1, skips, alphas).states(np.ones((2, 3))), 20))
    for (i, j), _ in np.ndenumerate(np.ones((2, 3))):
        layer = Layer(make_norm("derf"), float(weights[i, 0]), 0.1, float(skips[j]), float(alphas[j]))
        for (q, chi), (one_q, one_chi) in zip(grid, layer.states(1.0), strict=False):
            assert q[i, j] == pytest.approx(one_q, rel=1e-10)
            assert chi[i, j] == pytest.approx(one_chi, rel=1e-10)
