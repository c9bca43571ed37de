"""timm's vision transformers: what is read without weights is what the weights are."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from close_fields import assert_close
from criticality.errors import ArgumentError
from criticality.measurement import input_kernels
from criticality.models import (
    DynamicPointwise,
    ViTSpec,
    initialize,
    model_spec,
    photographs,
)
from criticality.pointwise import FUNCTIONS
from criticality.theory import Attention

SMALL = {"depth": 2, "width": 128, "image_size": 64}


@pytest.mark.parametrize("init", ["own", "fan-in"])
@pytest.mark.parametrize("norm", ["ln", "rms", "dyt", "derf", "none"])
def test_the_meta_device_tells_what_real_weights_tell(norm, init):
    alpha = 0.75 if norm in ("dyt", "derf") else None
    description = ViTSpec("vit_tiny_patch16_224", norm=norm, alpha=alpha, init=init, **SMALL)
    expected, _ = description.read()
    torch.manual_seed(0)
    actual = description.network(description.build())
    assert len(actual.sublayers) == 4
    for a, b in zip(expected.sublayers, actual.sublayers, strict=True):
        assert a.norm == b.norm
        assert a.scale == b.scale
        assert_close(a.branch, b.branch, rel=0.04)


def test_input_kernels_are_expected_without_weights():
    description = ViTSpec("vit_tiny_patch16_224", image_size=64)
    images = description.inputs().numpy()
    _, kernels = description.read()
    measured = []
    for seed in range(8):
        torch.manual_seed(seed)
        measured.append(input_kernels(description.build(), torch.from_numpy(images)))
    for index, kernel in enumerate(kernels):
        mean = np.mean([m[index] for m in measured], axis=0)
        error = np.std([m[index] for m in measured], axis=0, ddof=1) / np.sqrt(8)
        assert np.mean(np.abs(kernel.entries - mean) <= 4 * error + 1e-3) > 0.98


def test_a_large_model_is_described_without_allocating_it():
    network, kernels = ViTSpec("vit_giant_patch14_224", norm="dyt", alpha=0.5).read()
    assert network.depth == 40
    assert isinstance(network.sublayers[0].branch, Attention)
    assert network.sublayers[0].branch.heads == 16
    assert kernels[0].tokens == 257


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_normalizer_modules_compute_their_function(name):
    module = DynamicPointwise(5, name, alpha=0.8, dtype=torch.float64)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    expected = FUNCTIONS[name].value(0.8 * x.detach().numpy()) * module.weight.detach().numpy()
    np.testing.assert_allclose(module(x).detach(), expected + module.bias.detach().numpy(), rtol=1e-12)
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    exact = 0.8 * FUNCTIONS[name].derivative(0.8 * x.detach().numpy()) * module.weight.detach().numpy()
    np.testing.assert_allclose(slope, exact, rtol=1e-10)


def test_published_parameter_names():
    assert list(DynamicPointwise(4, "dyt").state_dict()) == ["alpha", "weight", "bias"]
    assert sorted(DynamicPointwise(4, "derf").state_dict()) == ["alpha", "bias", "shift", "weight"]


def test_photographs_are_real_and_normalized():
    images = photographs(96)
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == np.float32
    assert 0.5 < images.std() < 2
    assert not np.allclose(images[0], images[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ViTSpec("vit_nope"), "model 'timm:vit_nope' must be a model of timm"),
        (
            lambda: ViTSpec("resnet18").read(),
            "call 'conv2d' in 'layer1.0.conv1' is not read by the exact theory: a convolution must be of patches",
        ),
        (lambda: ViTSpec("vit_tiny_patch16_224", depth=0), "depth=0 of ViTSpec must be a whole number"),
        (lambda: ViTSpec("vit_tiny_patch16_224", norm="dyt", alpha=-1.0), "alpha=-1.0"),
        (lambda: ViTSpec("vit_tiny_patch16_224", alpha=1.0), "alpha=1.0 must come with a pointwise norm"),
        (lambda: ViTSpec("vit_tiny_patch16_224", width=100, heads=3), "width=100 must be divisible by heads=3"),
        (lambda: ViTSpec("vit_tiny_patch16_224", init="xavier"), "init 'xavier' is unknown"),
        (lambda: initialize([], "no"), "init 'no' is unknown; allowed are own, fan-in"),
        (lambda: initialize([], "timm"), "allowed are own, fan-in; 'timm' is now called 'own'"),
        (lambda: model_spec("vit_tiny"), "model 'vit_tiny' must be given as 'timm:NAME'"),
        (lambda: model_spec("timm:vit_tiny_patch16_224", tokens=4), "tokens=4 must be left out"),
        (lambda: photographs(0), "size=0 must be a whole number, 1 or above"),
        (lambda: DynamicPointwise(4, "dyt", alpha=float("nan")), "alpha=nan must be a finite number above 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("timm:vit_tiny_patch16_224", {"width": 3_000_000}),
        ("timm:vit_tiny_patch16_224", {"depth": 1_000_000, "width": 192}),
        ("hf:gpt2", {"tokens": 10_000_000}),
    ],
)
def test_sizes_beyond_memory_are_refused_before_anything_is_built(name, sizes, monkeypatch):
    monkeypatch.setattr("criticality.memory.memory", lambda: 2.0**34)
    said = rf"^{next(iter(sizes))}=\d+ must fit into memory, but takes \d+ GiB at least, and there are 16$"
    with pytest.raises(ArgumentError, match=said):
        (lambda spec: spec.inputs() if "tokens" in sizes else spec.build())(model_spec(name, **sizes))
