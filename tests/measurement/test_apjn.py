"""Measured partial Jacobian norms against full Jacobians, and what is left behind on the model."""

import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from criticality.measurement import (
    input_kernels,
    measure,
    measure_between,
    measure_ensemble,
    measure_forward,
)
from criticality.measurement.statistics import Axes, stream_moments


class Block(nn.Module):
    def __init__(self, width, in_place=False):
        super().__init__()
        self.linear, self.drop, self.in_place = nn.Linear(width, width), nn.Dropout(0.5), in_place

    def forward(self, x, scale=1.0):
        branch = self.drop(torch.tanh(self.linear(x))) * scale
        if self.in_place:
            x += branch
            return x
        return x + branch


class Tower(nn.Module):
    """A residual stream in ``blocks``, tokens mixed by a softmax over their inner products."""

    def __init__(self, width=6, depth=3, in_place=False):
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.blocks = nn.Sequential(*(Block(width, in_place) for _ in range(depth)))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + torch.softmax(x @ x.transpose(1, 2), -1) @ x
        return self.head(self.blocks(x)).mean(1)


def _inputs(dtype=torch.float32):
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


def _exact(model, inputs):
    """log J(l -> m) by full Jacobians, shape (depth + 1, depth + 1)."""
    model.eval()
    stream = [model.embed(inputs)]
    stream[0] = stream[0] + torch.softmax(stream[0] @ stream[0].transpose(1, 2), -1) @ stream[0]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    size = len(stream)
    table = np.full((size, size), np.nan)
    for start in range(size):
        for end in range(start, size):
            tail = model.blocks[start:end]
            jacobian = torch.autograd.functional.jacobian(tail, stream[start].detach())
            table[start, end] = math.log(float(jacobian.square().sum()) / stream[end].numel())
    return table


@pytest.mark.parametrize("in_place", [False, True])
def test_profile_agrees_with_full_jacobians(in_place):
    torch.manual_seed(3)
    model = Tower(in_place=in_place)
    reference = Tower()
    reference.load_state_dict(model.state_dict())
    exact = _exact(reference, _inputs())[:, -1]
    measured = measure(model, _inputs(), probes=2000)
    assert np.all(np.abs(measured.log_apjn - exact) <= 4 * measured.log_apjn_se + 1e-6)
    assert float(measured.log_apjn_se[0]) < 0.02


def test_forward_mode_and_all_pairs_agree_with_full_jacobians():
    torch.manual_seed(3)
    model = Tower()
    exact = _exact(model, _inputs())
    forward = measure_forward(model, _inputs(), start=1, tangents=500)
    assert np.isnan(forward.log_apjn[0])
    np.testing.assert_allclose(forward.log_apjn[1:], exact[1, 1:], atol=0.04)
    np.testing.assert_allclose(measure_between(model, _inputs(), probes=100).log_apjn, exact, atol=0.08)


def test_forward_mode_starts_at_an_input_that_is_the_stream():
    torch.manual_seed(3)
    blocks, x = Tower().eval().blocks, torch.randn(2, 3, 6)
    jacobian = torch.autograd.functional.jacobian(blocks, x)
    exact = math.log(float(jacobian.square().sum()) / x.numel())
    assert float(measure_forward(blocks, x, tangents=500).log_apjn[-1]) == pytest.approx(exact, abs=0.06)


def test_duality_of_reverse_and_forward_mode_on_a_vision_transformer():
    """One trace, two estimators: a vector at the end sent back, a tangent at the start sent forward."""
    from criticality.models import ViTSpec, photographs

    model = ViTSpec("vit_tiny_patch16_224", norm="dyt", depth=4, width=64, image_size=64).build()
    images = torch.from_numpy(photographs(64))
    back = measure(model, images, probes=64)
    forward = measure_forward(model, images, tangents=64)
    assert float(forward.log_apjn[-1]) == pytest.approx(float(back.log_apjn[0]), abs=5 * float(back.log_apjn_se[0]))


def _state(model):
    return (
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [p.grad for p in model.parameters()],
        {name: (value.dtype, value.device, value.data_ptr()) for name, value in model.state_dict().items()},
    )


class Breaks(Block):
    def forward(self, x, scale=1.0):
        raise RuntimeError("broken block")


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("call", [measure, measure_between, measure_forward])
def test_nothing_is_left_behind(call, broken, dtype):
    model = Tower().train()
    model.blocks[0].linear.bias.requires_grad_(False)
    model.blocks[1].eval()
    if broken:
        model.blocks[2] = Breaks(6)
    before, random_state = _state(model), torch.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError, match="broken block"):
            call(model, _inputs(), dtype=dtype)
    else:
        call(model, _inputs(), dtype=dtype)
    assert _state(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)


def test_measures_inside_no_grad_and_inference_mode():
    model = Tower()
    plain = measure(model, _inputs())
    with torch.no_grad():
        assert measure(model, _inputs()).identical(plain)
    with torch.inference_mode():
        inputs = _inputs()
    with torch.no_grad():
        assert measure(model, inputs.clone()).identical(plain)


def test_seeds_and_dtypes():
    model = Tower()
    assert measure(model, _inputs(), seed=4).identical(measure(model, _inputs(), seed=4))
    assert not measure(model, _inputs(), seed=5).identical(measure(model, _inputs(), seed=4))
    double = measure(model, _inputs(), dtype=torch.float64)
    np.testing.assert_allclose(measure(model, _inputs()).log_apjn, double.log_apjn, atol=1e-5)
    np.testing.assert_allclose(measure(model, _inputs(), dtype=torch.bfloat16).log_apjn, double.log_apjn, atol=0.05)


def test_kernels_of_the_stream():
    model = Tower()
    measured, kernel = measure(model, _inputs()), input_kernels(model, _inputs())
    assert kernel.shape == (2, 4, 4)
    assert float(measured.q[0]) == pytest.approx(np.mean(np.diagonal(kernel, axis1=1, axis2=2)), rel=1e-5)
    off = ~np.eye(4, dtype=bool)
    assert float(measured.p[0]) == pytest.approx(np.mean(kernel[:, off]), rel=1e-5)
    root = np.sqrt(np.diagonal(kernel, axis1=1, axis2=2))
    cosine = kernel / root[:, :, None] / root[:, None, :]
    assert float(measured.correlation[0]) == pytest.approx(np.mean(cosine[:, off]), rel=1e-5)


def test_ensemble_averages_j_and_states_its_error():
    inputs = _inputs()
    singles = []
    for seed in (3, 4, 5):
        torch.manual_seed(seed)
        singles.append(np.exp(measure(Tower(), inputs, seed=seed).log_apjn.values))
    state = torch.get_rng_state()
    ensemble = measure_ensemble(lambda seed: Tower(), inputs, [3, 4, 5])
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(ensemble.log_apjn, np.log(np.mean(singles, axis=0)), rtol=1e-12, atol=1e-12)
    error = np.std(singles, axis=0, ddof=1) / np.sqrt(3) / np.mean(singles, axis=0)
    np.testing.assert_allclose(ensemble.log_apjn_se, error, rtol=1e-9, atol=1e-12)
    assert np.isnan(measure(Tower(), inputs).log_apjn_se).all()


class Keyword(nn.Module):
    """Stream in modules of other names, tuples as outputs, keyword inputs, and a stream of one token."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, *, features, ids):
        x = self.first(features)
        return self.second(x) + x, ids


def test_points_by_name_and_by_callable():
    inputs = {"features": torch.randn(3, 5), "ids": torch.arange(3)}
    named = measure(Keyword(), inputs, points=["first", "second"])
    assert named.sizes["block"] == 2
    assert np.isnan(named.p).all()
    model = Keyword()
    called = measure(model, inputs, points=lambda m: [name for name, _ in m.named_children()])
    xr.testing.assert_equal(called, measure(model, inputs, points=["second:input", "second"]))
    assert named.points == ["first", "second"]


class Nan(Block):
    def forward(self, x, scale=1.0):
        return x * float("nan")


class Narrow(Block):
    def forward(self, x, scale=1.0):
        return x[..., :3]


def _tower_with(block):
    model = Tower()
    model.blocks[1] = block(6)
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(nn.Linear(6, 6), _inputs()), "model Linear must have a residual stream, values through which"),
        (lambda: measure(Tower(), _inputs(), points=["blocks.0", "blocks.7"]), "point 'blocks.7' must name a module"),
        (lambda: measure(Tower(), _inputs(), points=["blocks.0"]), "must name at least two modules"),
        (lambda: measure(Tower(), _inputs(), points=["blocks.1", "blocks.0"]), "must be reached once"),
        (lambda: measure(Tower(), _inputs(), points=["blocks.0:out", "blocks.1"]), "must end in ':input'"),
        (lambda: measure(Tower(), _inputs(), probes=0), "probes=0 must be a whole number, 1 or above"),
        (lambda: measure(_tower_with(Nan), _inputs()), "the model returns nan or inf there, first in 'blocks.1'"),
        (lambda: measure(_tower_with(Narrow), _inputs()), "its own code raised in 'blocks.2.linear'"),
        (lambda: measure_ensemble(lambda seed: Tower(), _inputs(), []), "must hold at least one seed"),
        (lambda: measure_forward(Tower(), _inputs(), start=9), "start=9 must be a point of the stream, 0 to 3"),
        (lambda: measure_forward(Tower(), _inputs(), tangents=0), "tangents=0 must be a whole number, 1 or above"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_moments_of_values_that_are_overwritten_are_taken_in_time():
    torch.manual_seed(3)
    model = Tower(in_place=True)
    reference = Tower()
    reference.load_state_dict(model.state_dict())
    runs = []
    model.embed.register_forward_hook(lambda *_: runs.append(1))
    kept, overwritten = measure(reference, _inputs()), measure(model, _inputs())
    for name in ("q", "p", "correlation"):
        np.testing.assert_allclose(overwritten[name], kept[name], rtol=1e-5)
    assert len(set(np.round(kept.q.values, 4))) == 4  # the points differ, so that the last value would be seen
    # one pass, and one that finds the batch axis, as there is no convolution
    assert len(runs) == 2


class Patches(nn.Module):
    """Images to tokens by a convolution, the stream batch first or sequence first."""

    def __init__(self, sequence_first):
        super().__init__()
        self.patch, self.linear, self.sequence_first = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), sequence_first

    def forward(self, x):
        x = self.patch(x).flatten(2)
        x = x.permute(2, 0, 1) if self.sequence_first else x.transpose(1, 2)
        for _ in range(2):
            tokens = x.mean(0 if self.sequence_first else 1, keepdim=True)
            x = x + torch.tanh(self.linear(x + tokens))
        return x


def test_batch_of_a_convolution_tells_the_batch_axis_in_one_pass():
    torch.manual_seed(3)
    images = torch.randn(2, 3, 8, 12)
    first, second = Patches(False), Patches(True)
    second.load_state_dict(first.state_dict())
    runs = []
    for model in (first, second):
        model.patch.register_forward_hook(lambda *_: runs.append(1))
    one, other = measure(first, images), measure(second, images)
    for name in ("q", "p", "correlation"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    assert len(runs) == 2
    stream = first.patch(images).flatten(2).transpose(1, 2)
    usual, wrong = stream_moments(stream, Axes(0, 2)), stream_moments(stream, Axes(1, 2))
    assert float(one.p[0]) == pytest.approx(usual.p, rel=1e-5)
    assert abs(usual.p - wrong.p) > 0.01 * usual.q


def test_what_takes_the_shape_of_the_stream_is_no_branch_and_dropout_no_new_value():
    """Positions expanded to the stream's shape, then dropout, which passes on what is overwritten next."""

    class Padded(Tower):
        def __init__(self, in_place):
            super().__init__()
            self.position, self.norm, self.pad = nn.Parameter(torch.ones(4, 1)), nn.LayerNorm(6), in_place

        def forward(self, x):
            x = self.embed(x)
            x = self.blocks[0].drop(self.norm(x + self.position.expand_as(x) + torch.ones_like(x)))
            mask = torch.ones(4, 1)
            if self.pad:
                x *= mask
            else:
                x = x * mask
            return self.head(self.blocks(x)).mean(1)

    model, reference = Padded(True), Padded(False)
    reference.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = measure(model, _inputs()), measure(reference, _inputs())
    np.testing.assert_allclose(found.log_apjn, expected.log_apjn, atol=1e-5)
    np.testing.assert_allclose(found.q, expected.q, rtol=1e-5)
