"""Where the backward pass starts: measured gradients against explicit ones, the theory, and the source's numbers."""

import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from criticality.errors import InputsError
from criticality.measurement import measure, measure_ensemble, measure_forward_ensemble, output_kernels
from criticality.measurement.starts import loss_gradient, token_probe
from criticality.measurement.statistics import Axes
from criticality.pointwise import Pointwise
from criticality.prescription import Monitor
from criticality.probes import check_probe, probe_kernel
from criticality.studies.agreement import LARGEST_TOLERANCE
from criticality.theory import (
    MLP,
    Attention,
    Linear,
    SymmetricKernel,
    TokenKernel,
    make_norm,
    propagate,
    propagate_between,
    transformer,
)
from criticality.weightless import predict_sampled
from vision import SIGMA, equivalent_tokens
from vision import network as in_theory


class Vision(nn.Module):
    """Blocks of timm on tokens, a final norm, and a head of the mean or of the first token."""

    def __init__(self, width, depth, pool):
        super().__init__()
        blocks = [Block(width, width // 32, act_layer=nn.ReLU, norm_layer=nn.LayerNorm) for _ in range(depth)]
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, 100)
        self.pool = pool
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=SIGMA / math.sqrt(width))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.norm(self.blocks(x))
        return self.head(x.mean(dim=1) if self.pool == "mean" else x[:, 0])


def theory(depth, tokens, rho, probe):
    return float(propagate(in_theory("ln", None, depth), SymmetricKernel.of(1.0, rho, tokens), probe=probe).log_apjn[0])


@pytest.mark.parametrize("probe", ["pooled", "loss", "class"])
def test_gradients_are_those_that_the_theory_says(probe):
    """Six blocks; equivalent tokens see a class token's gradient as they see independent ones."""
    tokens, x = 32, equivalent_tokens(32, 256, 0.4)
    build = lambda _: Vision(256, 6, "mean")  # noqa: E731
    found = measure_ensemble(build, x, range(10), probe=probe)
    expected = theory(6, tokens, 0.4, "normal" if probe == "class" else "pooled")
    measured, error = float(found.log_apjn[0]), float(found.log_apjn_se[0])
    assert error < 0.06
    assert abs(measured - expected) < 3 * error + 0.02
    other = theory(6, tokens, 0.4, "pooled" if probe == "class" else "normal")
    assert abs(measured - other) > 5 * error  # and not the other way
    assert found.attrs["probe"] == probe


@pytest.mark.slow
def test_coherence_is_why_gradients_exceed_the_apjn():
    """``source.md``, 1.3.3: 24 blocks, 64 tokens: 1.90 from independent gradients, 2.7 from common ones.

    Agreement is that of ``compare`` at this initialization."""
    x = torch.cat([equivalent_tokens(64, 256, 0.4, seed=one) for one in range(2)])
    apart = theory(24, 64, 0.4, "normal")
    for probe, start in (("normal", "normal"), ("pooled", "pooled"), ("loss", "pooled")):
        found = measure_ensemble(lambda _: Vision(256, 24, "mean"), x, range(4), probe=probe)
        measured, error = float(found.log_apjn[0]), float(found.log_apjn_se[0])
        assert abs(measured - theory(24, 64, 0.4, start)) < LARGEST_TOLERANCE + 3 * error
        assert probe == "normal" or measured - apart > 0.5 + 3 * error


@pytest.mark.parametrize(("rho", "log_j"), [(0.4, 4.30261280437)])
def test_coherent_start_of_the_source(rho, log_j):
    """``source_numbers.json``, part 2, LayerNorm: 128 blocks, 197 tokens, small scores."""
    attention = Attention(value=Linear(0.16777216), scores="uniform")
    network = transformer(make_norm("ln", epsilon=0.0), attention, MLP(Pointwise("relu"), Linear(0.67108864)), 128)
    found = propagate(network, SymmetricKernel.of(1.0, rho, 197), probe="pooled")
    assert float(found.log_apjn[0]) == pytest.approx(log_j, rel=1e-10)


def test_the_kernel_of_tokens_and_equivalent_tokens_agree():
    """Small scores, where both are exact: any kernel, and a class token, whose place does not matter."""
    attention = Attention(value=Linear(0.7), scores="uniform")
    network = transformer(make_norm("derf", 0.8), attention, MLP(Pointwise("relu"), Linear(1.3)), 4)
    whole = TokenKernel.of(0.7 * np.eye(6) + 0.3)
    square = np.random.default_rng(0).standard_normal((6, 3))
    for probe in ("normal", "pooled", "class", square @ square.T):
        one = propagate(network, SymmetricKernel.of(1.0, 0.3, 6), probe=probe)
        other = propagate(network, whole, probe=probe)
        np.testing.assert_allclose(one.log_apjn, other.log_apjn, atol=1e-7)


def test_inputs_of_unequal_gradients_are_weighted():
    network = transformer(make_norm("derf", 0.8), Attention(scores="uniform"), MLP(Pointwise("relu"), Linear(1.3)), 2)
    kernels = [TokenKernel.of(np.eye(3)), TokenKernel.of(4 * np.eye(3))]
    alone = [propagate(network, one, probe="pooled").log_apjn.values for one in kernels]
    both = propagate(network, kernels, probe=np.array([np.ones((3, 3)), 3 * np.ones((3, 3))])).log_apjn
    np.testing.assert_allclose(both, np.log(0.25 * np.exp(alone[0]) + 0.75 * np.exp(alone[1])), atol=1e-12)
    with pytest.raises(ValueError, match="one for each of 2 inputs, got 3"):
        propagate(network, kernels, probe=np.ones((3, 3, 3)))


@pytest.mark.parametrize("probe", ["normal", "pooled", "class", "kernel"])
def test_random_gradients_have_their_kernel(probe):
    square = np.random.default_rng(1).standard_normal((5, 2))
    kernel = square @ square.T if probe == "kernel" else probe
    for axes, shape, order in ((Axes(0, 2), (3, 5, 4000), (0, 1, 2)), (Axes(1, 2), (5, 3, 4000), (1, 0, 2))):
        u = token_probe(kernel, shape, axes, 0, 0, torch.zeros(())).permute(order).double()
        found = (u @ u.mT / 4000).mean(dim=0).numpy()
        np.testing.assert_allclose(found, probe_kernel(kernel, 5), atol=0.12)
    for same in ("normal", "pooled", "class"):  # one token
        torch.testing.assert_close(
            token_probe(same, (3, 7), None, 0, 0, torch.zeros(())),
            token_probe("normal", (3, 7), None, 0, 0, torch.zeros(())),
        )


def test_the_gradient_of_the_loss_is_that_of_autograd():
    """Norms of ``delta`` at both ends of the stream, from the loss itself."""
    torch.manual_seed(0)
    model, x = Vision(64, 2, "class").double(), equivalent_tokens(8, 64, 0.2).double().repeat(3, 1, 1)
    found = measure(model, x, probe="loss", seed=4)
    start = x.clone().requires_grad_()
    end = model.blocks(start)
    output = model.head(model.norm(end)[:, 0])
    labels = torch.randint(100, (3,), generator=torch.Generator().manual_seed(1_000_003 * 4))
    loss = nn.functional.cross_entropy(output, labels, reduction="sum")
    at_end, at_start = torch.autograd.grad(loss, [end, start])
    expected = math.log(float(at_start.square().sum() / at_end.square().sum()))
    assert float(found.log_apjn[0]) == pytest.approx(expected, abs=1e-6)
    kernels = output_kernels(model, x, seed=4)
    np.testing.assert_allclose(kernels, (at_end @ at_end.mT / 64).numpy(), atol=1e-12)
    assert np.count_nonzero(kernels[0]) == 1  # the class token's own


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("mean", "probe='mean' must be one of 'normal', 'pooled', 'class', 'loss'"),
        (np.ones((2, 3)), "square matrix"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite, but has the eigenvalue -1"),
        (np.zeros((2, 2)), "not 0"),
    ],
)
def test_what_is_no_probe_is_refused(probe, message):
    with pytest.raises(ValueError, match=message):
        check_probe(probe)


def test_what_a_model_or_a_kernel_cannot_take_is_refused():
    with pytest.raises(ValueError, match="kernel of 5 tokens"):
        probe_kernel(np.eye(4), 5)
    with pytest.raises(ValueError, match="output_kernels"):
        probe_kernel("loss", 5)
    with pytest.raises(InputsError, match="two classes or more"):
        loss_gradient(torch.zeros(3, 1), 0, 0)


def test_forward_from_a_block():
    """``J(2 -> m)`` of the theory and along random tangents, every block within three standard errors."""
    tokens, x = 32, equivalent_tokens(32, 192, 0.4)
    found = measure_forward_ensemble(lambda _: Vision(192, 5, "mean"), x, range(8), start=2, tangents=2)
    network = in_theory("ln", None, 5)
    expected = propagate_between(network, SymmetricKernel.of(1.0, 0.4, tokens), start=2).sel(target_block=[3, 4, 5])
    measured = found.sel(target_block=[3, 4, 5])
    assert float(measured.log_apjn_se.max()) < 0.03
    assert np.all(abs(measured.log_apjn - expected.log_apjn) < 3 * measured.log_apjn_se + 0.01)


def test_the_monitor_takes_a_probe():
    torch.manual_seed(0)
    model, x = Vision(64, 2, "mean"), equivalent_tokens(8, 64, 0.2)
    scalars = {probe: Monitor(model, x, probe=probe).record(0)["criticality/log_apjn"] for probe in ("normal", "loss")}
    for probe, log_apjn in scalars.items():
        assert log_apjn == float(measure(model, x, probe=probe).log_apjn[0])
    assert scalars["loss"] != scalars["normal"]
    with pytest.raises(ValueError, match="probe='mean'"):
        Monitor(model, x, probe="mean")


@pytest.mark.parametrize("probe", ["pooled", "loss"])
def test_models_that_are_run_without_weights_take_a_probe(probe):
    x = equivalent_tokens(16, 128, 0.4)
    found = predict_sampled(lambda: Vision(128, 4, "mean"), x, range(8), probe=probe)
    expected = measure_ensemble(lambda _: Vision(128, 4, "mean"), x, range(50, 58), probe=probe)
    normal = predict_sampled(lambda: Vision(128, 4, "mean"), x, range(8))
    error = np.hypot(found.log_apjn_se, expected.log_apjn_se)
    assert np.all(abs(found.log_apjn - expected.log_apjn) < 3 * error + 0.01)
    assert float(found.log_apjn[0] - normal.log_apjn[0]) > 0.2
    assert found.attrs["probe"] == probe
