"""Curvature and first steps of stacks against a dense Hessian by autograd and against what is known."""

import numpy as np
import pytest
import torch
from test_recursion import made, network
from torch.nn import functional

from criticality.laboratory.initial import Curvature, correlation_slope, log_apjn, sign_step
from criticality.laboratory.recursion import Shape, Stack


def dense(stack, x, labels, run):
    """Hessian and gradient of one run, by autograd through a network that is written apart."""

    def loss(flat):
        p = stack.views_of(flat)
        return functional.cross_entropy(network(stack, p, run, x[run])[1], labels[run])

    flat = stack.flat.clone()
    return torch.autograd.functional.hessian(loss, flat), torch.autograd.functional.jacobian(loss, flat)


@pytest.mark.parametrize("norm", ["dyt", "ln"])
def test_largest_eigenvalues_are_the_dense_ones(norm):
    stack, x, labels = made(norm, None, 1.0, True)
    before = stack.flat.clone()
    curvature = Curvature(stack, x, labels)
    scale = curvature.gradient.abs().add(1e-2).rsqrt()
    plain, scaled = curvature.largest(100), curvature.largest(200, scale)
    assert torch.equal(stack.flat, before)
    for run in range(2):
        hessian, gradient = dense(stack, x, labels, run)
        mine = gradient != 0
        assert torch.allclose(curvature.gradient[mine], gradient[mine], atol=1e-12)
        assert plain[run] == pytest.approx(float(torch.linalg.eigvalsh(hessian).abs().max()), rel=1e-3)
        preconditioned = scale[:, None] * hessian * scale
        assert scaled[run] == pytest.approx(float(torch.linalg.eigvalsh(preconditioned).abs().max()), rel=1e-3)


def test_a_step_of_signs_and_log_apjn():
    stack, x, labels = made("dyt", None, 1.0, True)
    gradient = Curvature(stack, x, labels).gradient
    small, smaller = (sign_step(stack, x, gradient, rate) for rate in (1e-5, 1e-7))
    assert small == pytest.approx(smaller, rel=1e-3)  # it is of first order
    linear = Stack(Shape(2, 4, 64, 30, 4, "ln", None, 1.0, True), torch.float64)
    linear.initialize(range(2), 1.0, 0.0, [])
    x = torch.randn(2, 200, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert log_apjn(linear, x) == pytest.approx(np.log(5.0), abs=0.25)  # J = K_L / K_0 = 1 + L


def test_correlation_slope():
    stack, x, _ = made("none", None, 1.0, False)
    stack.p["weight"].zero_()
    stack.p["bias"].zero_()
    assert correlation_slope(stack, x) == pytest.approx(1.0)  # the stream is passed on
    wide = Stack(Shape(1, 1, 2000, 40, 4, "none", "tanh", 0.0, False), torch.float64)
    wide.initialize([0], 50.0, 0.0, [])
    wide.p["embedding"].mul_(100)
    x = torch.randn(1, 64, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert correlation_slope(wide, x) == pytest.approx(2 / np.pi, rel=0.15)  # signs: 2 / pi asin(rho), at rho near 0
