"""The hand-written recursion of several runs against one network written with torch's modules and autograd."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from criticality.laboratory.records import Records, geometric_steps
from criticality.laboratory.recursion import Shape, Stack

FUNCTIONS = {
    "dyt": torch.tanh,
    "derf": torch.erf,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "power-1/2": lambda u: torch.sign(u) * ((1 + u.abs()) ** 0.5 - 1) / 0.5,
    "power-2/3": lambda u: torch.sign(u) * ((1 + u.abs()) ** (2 / 3) - 1) / (2 / 3),
}
CASES = [
    ("dyt", None, 1.0, True),
    ("derf", None, 1.0, True),
    ("power-1/2", None, 1.0, True),
    ("power-2/3", None, 1.0, True),
    ("ln", None, 1.0, True),
    ("rms", None, 1.0, True),
    ("ln", "erf", 0.9, False),
    ("none", "gelu", 0.5, False),
    ("none", "relu", 0.0, False),
    ("none", "tanh", 0.0, False),
]


def made(norm, activation, mu, affine, runs=2):
    stack = Stack(Shape(runs, 3, 6, 5, 4, norm, activation, mu, affine), torch.float64)
    scaled = norm in FUNCTIONS
    stack.initialize(range(runs), 1.3, 0.2, [0.7, 0.9, 1.1, 1.3] if scaled else [])
    draw = torch.Generator().manual_seed(5)
    for name in ("gamma", "beta", "shift"):
        if name in stack.p:
            stack.p[name].add_(0.2 * torch.randn(stack.p[name].shape, generator=draw, dtype=torch.float64))
    x = torch.randn(runs, 7, 5, generator=draw, dtype=torch.float64)
    return stack, x, torch.randint(0, 4, (runs, 7), generator=draw)


def normalized(stack, p, layer, run, x):
    """One network's ``n(x)``, from the formula."""
    s = stack.shape
    if s.norm == "ln":
        u = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    elif s.norm == "rms":
        u = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    elif s.norm == "none":
        u = x
    else:
        u = p["alpha"][layer, run, 0, 0] * x + (p["shift"][layer, run, 0, 0] if "shift" in p else 0.0)
    name = s.norm if s.norm in FUNCTIONS else s.activation
    y = u if name is None else FUNCTIONS[name](u)
    return p["gamma"][layer, run, 0] * y + p["beta"][layer, run, 0] if s.affine else y


def network(stack, p, run, x):
    """Stream and logits of one network."""
    s = stack.shape
    points = [x @ p["embedding"][run] + p["embedding_bias"][run, 0]]
    for layer in range(s.depth):
        branch = normalized(stack, p, layer, run, points[-1]) @ p["weight"][layer, run] + p["bias"][layer, run, 0]
        points.append(s.mu * points[-1] + branch)
    return points, normalized(stack, p, s.depth, run, points[-1]) @ p["readout"][run] + p["readout_bias"][run, 0]


@pytest.mark.parametrize(("norm", "activation", "mu", "affine"), CASES)
def test_loss_and_gradients_are_autograds(norm, activation, mu, affine):
    stack, x, labels = made(norm, activation, mu, affine)
    loss, _ = stack.loss_and_gradient(x, labels)
    p = {name: view.clone().requires_grad_() for name, view in stack.p.items()}
    plain = [functional.cross_entropy(network(stack, p, run, x[run])[1], labels[run]) for run in range(2)]
    np.testing.assert_allclose(loss.numpy(), [float(value) for value in plain], rtol=1e-12)
    gradients = torch.autograd.grad(sum(plain), list(p.values()))
    for name, gradient in zip(p, gradients, strict=True):
        assert gradient.abs().max() > 1e-6  # each parameter matters here
        torch.testing.assert_close(stack.g[name], gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("norm", "activation", "mu", "affine"), CASES)
def test_profiles_are_autograds(norm, activation, mu, affine):
    stack, x, _ = made(norm, activation, mu, affine)
    records = Records(stack, x, [0])
    records.record(0)
    found = records.dataset()
    for run in range(2):
        points = network(stack, stack.p, run, x[run].clone().requires_grad_())[0]
        u = records._direction[run]
        deltas = torch.autograd.grad((points[-1] * u).sum(), points)
        for at, (point, delta) in enumerate(zip(points, deltas, strict=True)):
            log_apjn = math.log(float(delta.square().mean()))
            assert float(found.log_apjn[run, 0, at]) == pytest.approx(log_apjn, rel=1e-5, abs=1e-6)
            assert float(found.log_q[run, 0, at]) == pytest.approx(math.log(float(point.square().mean())), rel=1e-5)
            cosines = functional.cosine_similarity(point[:, None], point[None], dim=-1)
            off = (float(cosines.sum()) - len(cosines)) / (len(cosines) * (len(cosines) - 1))
            assert float(found.correlation[run, 0, at]) == pytest.approx(off, rel=1e-4, abs=1e-6)


def test_slopes_and_saturation():
    stack, _, _ = made("dyt", None, 1.0, True)
    stack.p["alpha"].fill_(2.0)
    x = torch.tensor([0.0, 0.5, 10.0, -10.0, 0.0, 0.0], dtype=torch.float64).expand(2, 1, -1)
    slope = stack.slopes(1, x)
    np.testing.assert_allclose(slope[0, 0, :3].numpy(), [1.0, (1 - np.tanh(1.0) ** 2) ** 2, 0.0], atol=1e-12)
    assert float((slope < 0.01).double().mean()) == pytest.approx(2 / 6)


def test_a_run_does_not_depend_on_its_neighbours():
    stack, x, labels = made("derf", None, 1.0, True, runs=3)
    stack.loss_and_gradient(x, labels)
    alone = Stack(Shape(1, 3, 6, 5, 4, "derf", None, 1.0, True), torch.float64)
    for name, view in alone.p.items():
        axis = stack.p[name].dim() - 3
        view.copy_(stack.p[name].narrow(axis, 1, 1))
    alone.loss_and_gradient(x[1:2], labels[1:2])
    for name, gradient in alone.g.items():
        torch.testing.assert_close(gradient, stack.g[name].narrow(gradient.dim() - 3, 1, 1), rtol=1e-10, atol=1e-14)
    other = Stack(Shape(1, 3, 6, 5, 4, "derf", None, 1.0, True), torch.float64)
    other.initialize([1], 1.3, 0.2, [0.7, 0.9, 1.1, 1.3])
    torch.testing.assert_close(other.p["weight"][:, 0], stack.p["weight"][:, 1])  # drawn by its seed alone


def test_geometric_steps():
    assert geometric_steps(1500) == [0, 1, 3, 10, 30, 100, 300, 1000, 1500]
    assert geometric_steps(1) == [0, 1]


def test_the_recursion_is_that_of_the_theory():
    """Width 600 against the library's own kernel recursion: K and log J of x <- x + W tanh(alpha x)."""
    from criticality.theory import SymmetricKernel, make_norm, propagate, resnet

    stack = Stack(Shape(1, 12, 600, 600, 10, "dyt", None, 1.0, True))
    stack.initialize([0], 1.0, 0.0, [0.8] * 13)
    x = torch.randn(1, 200, 600, generator=torch.Generator().manual_seed(1))
    records = Records(stack, x, [0])
    records.record(0)
    found = records.dataset()
    theory = propagate(resnet(make_norm("dyt", 0.8), 12), SymmetricKernel.of(1.0))
    np.testing.assert_allclose(found.log_apjn[0, 0], theory.log_apjn, atol=0.15)
    np.testing.assert_allclose(np.exp(found.log_q[0, 0]), theory.q, rtol=0.06)
