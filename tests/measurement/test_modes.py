"""In which mode a model is measured, and that the result says so."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from criticality.measurement import measure


class Block(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        normed = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x + self.drop(self.down(torch.tanh(self.up(normed))))


def net(drop, seen):
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(drop) for _ in range(3)))
    for _ in range(seen):
        model(3 * X + 1)
    return model


X = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))


def exact(model, seed):
    """log J of the whole Jacobian in the mode that the model is in."""
    torch.manual_seed(seed)
    jacobian = torch.autograd.functional.jacobian(model, X)
    return float(torch.log(jacobian.square().sum() / X.numel()))


@pytest.mark.parametrize("seen", [0, 5])
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_training_mode_is_that_of_a_training(drop, seen):
    model = net(drop, seen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    before_random = torch.get_rng_state()
    measured = measure(model, X, mode="training", seed=3, probes=400)
    assert torch.equal(torch.get_rng_state(), before_random)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert measured.mode == "training"
    assert float(measured.log_apjn[0]) == pytest.approx(exact(model.train(), 3), abs=4 * float(measured.log_apjn_se[0]))
    again = measure(model.eval(), X, mode="training", seed=3, probes=400)
    np.testing.assert_array_equal(again.log_apjn, measured.log_apjn)
    assert float(again.correlation[0]) == pytest.approx(
        float(measure(model, X).correlation[0])
    )  # the axes are the same
    assert not model.training


def test_evaluation_mode_says_whose_statistics_it_uses():
    fresh, seen = net(0.4, 0), net(0.4, 5)
    assert measure(fresh, X).mode == "evaluation, statistics of the batch in 3 batch norms that have seen no data"
    measured = measure(seen, X, probes=400)
    assert measured.mode == "evaluation"
    assert float(measured.log_apjn[0]) == pytest.approx(exact(seen.eval(), 0), abs=4 * float(measured.log_apjn_se[0]))
    with pytest.raises(ValueError, match="mode='train' must be one of 'evaluation', 'training'"):
        measure(seen, X, mode="train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(seen, X, mode="training")


class Drawing(nn.Module):
    """Drops channels by numbers of numpy and itself by one of Python, normalizes its weight by a power iteration, keeps values."""

    def __init__(self):
        super().__init__()
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.cache, self.seen, self.calls = None, [], {"of": "the user"}

    def forward(self, x):
        y = torch.tanh(self.linear(x))
        self.cache = y if self.cache is None else torch.cat([self.cache, y], 1)
        self.seen.append(y)
        self.calls["last"] = y
        if self.training:
            y = y * torch.as_tensor(np.random.rand(6) > 0.5) * (random.random() + 0.5)  # noqa: NPY002
        return x + y


def test_what_a_model_draws_writes_and_keeps_is_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(*(Drawing() for _ in range(3)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first, again = (measure(model, X, mode="training", seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.log_apjn, again.log_apjn)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert [(one.cache, one.seen, one.calls) for one in model] == [(None, [], {"of": "the user"})] * 3


def test_threads_that_measure_one_model_wait_for_each_other():
    model, found = net(0.4, 5), []
    threads = [threading.Thread(target=lambda: found.append(measure(model, X))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len({float(one.log_apjn[0]) for one in found}) == 1
    assert len(found) == 4
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


@pytest.mark.parametrize("device", ["meta"])
def test_a_default_device_of_the_users_is_the_models_own_affair(device):
    model = net(0.4, 5)
    expected = measure(model, X, probe="pooled")
    with torch.device(device):
        np.testing.assert_array_equal(measure(model, X, probe="pooled").log_apjn, expected.log_apjn)
