"""Profiles without weights against the measurement on really drawn ones."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from criticality.errors import CriticalityError, InputsError, StreamNotFoundError, UnknownLawError
from criticality.measurement import measure_ensemble
from criticality.weightless import build_without_weights, predict_sampled

WIDTH, DEPTH, TOKENS = 256, 4, 8
SEEDS = range(8)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.gate, self.up = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    """``x + f(x)``, all branches ``times`` times; weights from N(0, 1 / fan_in), so that branches count."""

    def __init__(self, branches: Callable[[], list[nn.Module]], times: int = 1) -> None:
        super().__init__()
        self.branches, self.times = nn.ModuleList(branches()), times
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            for branch in self.branches:
                x = x + branch(x)
        return x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": partial(Residual, lambda: [kind() for _ in range(DEPTH) for kind in (Attention, MLP)]),
    "gated": partial(Residual, lambda: [Gated() for _ in range(DEPTH)]),
    "tied": partial(Residual, lambda: [MLP()], DEPTH),
}
POINTS = {"transformer": 2 * DEPTH + 1, "gated": DEPTH + 1, "tied": DEPTH + 1}


def _inputs() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def measured() -> dict[str, xr.Dataset]:
    return {
        name: measure_ensemble(lambda seed, f=factory: f(), _inputs(), SEEDS, points="sublayers")
        for name, factory in MODELS.items()
    }


def _agree(predicted: xr.Dataset, measured: xr.Dataset, points: int) -> None:
    assert predicted.sizes["block"] == measured.sizes["block"] == points
    assert predicted.attrs["points"] == measured.attrs["points"]
    difference = np.abs(predicted.log_apjn.values - measured.log_apjn.values)
    error = np.hypot(predicted.log_apjn_se.values, measured.log_apjn_se.values)[:-1]
    assert measured.log_apjn.values[0] > 0.5  # far from the trivial profile
    assert (error < 0.2).all()  # standard errors that make the comparison mean something
    assert (difference[:-1] <= 3 * error + 0.05).all(), (difference, error)
    assert difference[-1] == 0.0
    assert np.allclose(predicted.q.values, measured.q.values, rtol=0.1)  # 16 tokens of 256, 8 seeds


@pytest.mark.parametrize("name", MODELS)
def test_factory_agrees_with_the_measurement(name: str, measured: dict[str, xr.Dataset]) -> None:
    _agree(predict_sampled(MODELS[name], _inputs(), SEEDS, points="sublayers"), measured[name], POINTS[name])


def test_built_model_agrees_and_stays_as_it_is(measured: dict[str, xr.Dataset]) -> None:
    model = MODELS["gated"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _agree(predict_sampled(model, _inputs(), SEEDS, points="sublayers"), measured["gated"], POINTS["gated"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_attributes_seeds_and_random_state() -> None:
    seen: list[int] = []
    state = torch.get_rng_state()
    found = predict_sampled(MODELS["gated"], _inputs(), [3, 5], probes=2, progress=seen.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == [3, 5]
    attributes = {name: found.attrs[name] for name in ("source", "way", "seeds", "seed", "probes")}
    assert attributes == {"source": "theory", "way": "sampled", "seeds": 2, "seed": 3, "probes": 2}
    assert len(found.attrs["points"]) == found.sizes["block"]
    assert found.attrs["schema"] == 1
    again = predict_sampled(MODELS["gated"], lambda model: _inputs(), [3, 5], probes=2)
    assert np.array_equal(again.log_apjn.values, found.log_apjn.values)
    other = predict_sampled(MODELS["gated"], _inputs(), [4, 6], probes=2)
    assert (other.log_apjn.values[:-1] != found.log_apjn.values[:-1]).all()


def test_a_number_of_seeds_is_that_many_from_zero() -> None:
    two, given = (predict_sampled(MODELS["gated"], _inputs(), seeds) for seeds in (2, [0, 1]))
    assert np.array_equal(two.log_apjn.values, given.log_apjn.values)
    assert two.attrs["seeds"] == 2


@pytest.mark.parametrize(("seeds", "what"), [([], "at least one seed"), (0, "a whole number, 1 or above")])
def test_no_seeds(seeds: list[int] | int, what: str) -> None:
    with pytest.raises(ValueError, match=f"must be {what}"):
        predict_sampled(MODELS["gated"], _inputs(), seeds)


def test_no_seeds_is_a_typed_error() -> None:
    with pytest.raises(CriticalityError):
        predict_sampled(MODELS["gated"], _inputs(), [])


def test_model_without_a_stream() -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    with pytest.raises(StreamNotFoundError):
        predict_sampled(factory, _inputs(), 1)


def test_integers_that_are_not_looked_up() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODELS["gated"]()

        def forward(self, ids: Tensor) -> Tensor:
            return self.inner(ids.float())

    with pytest.raises(InputsError):
        predict_sampled(Casts, torch.randint(9, (2, TOKENS, WIDTH)), 1)


def test_unknown_law() -> None:
    class Forgotten(Gated):
        def __init__(self) -> None:
            super().__init__()
            self.up.weight = nn.Parameter(torch.empty(2 * WIDTH, WIDTH))

    def factory() -> nn.Module:
        model = MODELS["gated"]()
        model.branches[1] = Forgotten()
        return model

    assert build_without_weights(factory) is not None
    with pytest.raises(UnknownLawError, match=r"branches\.1\.up\.weight"):
        predict_sampled(factory, _inputs(), 1)


class RescaledOnce(Gated):
    """Halves its last weight in its first pass for evaluation, as RWKV does."""

    def __init__(self) -> None:
        super().__init__()
        self.halved = False

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.halved):
            with torch.no_grad():
                self.down.weight.div_(2)
            self.halved = True
        return super().forward(x)


def test_a_model_that_rescales_its_weights_when_it_is_run() -> None:
    factory = partial(Residual, lambda: [RescaledOnce() for _ in range(DEPTH)])
    built = factory()
    before = built.branches[0].down.weight.clone()
    full = measure_ensemble(lambda seed: MODELS["gated"](), _inputs(), SEEDS).log_apjn.values[0]
    halved = measure_ensemble(lambda seed: factory(), _inputs(), SEEDS)
    predicted = predict_sampled(factory, _inputs(), SEEDS)
    error = float(np.hypot(predicted.log_apjn_se.values[0], halved.log_apjn_se.values[0]))
    assert abs(predicted.log_apjn.values[0] - halved.log_apjn.values[0]) < 3 * error + 0.02
    assert predicted.log_apjn.values[0] < full - 0.5
    predict_sampled(built, _inputs(), 1)
    assert torch.equal(built.branches[0].down.weight, before)
    assert built.branches[0].halved is False


def test_a_model_that_maps_over_positions() -> None:
    class Mapped(Gated):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.vmap(lambda i: (i >= torch.arange(TOKENS)).float())(torch.arange(TOKENS))
            return (weights / weights.sum(-1, keepdim=True)) @ super().forward(x)

    factory = partial(Residual, lambda: [Mapped() for _ in range(DEPTH)])
    measured = measure_ensemble(lambda seed: factory(), _inputs(), SEEDS)
    predicted = predict_sampled(factory, _inputs(), SEEDS)
    error = np.hypot(predicted.log_apjn_se.values, measured.log_apjn_se.values)
    assert (np.abs(predicted.log_apjn.values - measured.log_apjn.values) <= 3 * error + 0.02).all()


def test_functions_of_ones_own_are_named_where_they_hide_the_stream() -> None:
    class Triple(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:
            return 3 * x

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return 3 * gradient

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Triple.apply(x)

    with pytest.raises(StreamNotFoundError, match=r"functions of the model's own \(Triple\)"):
        predict_sampled(lambda: nn.Sequential(Hidden(), nn.Linear(WIDTH, WIDTH)), _inputs(), 1)


def test_a_pass_that_is_repeated_asks_the_weights_anew() -> None:
    """Of tokens that are almost alike, as what differs by rounding only would be another direction of the same weights."""

    class Behind(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            self.cut, self.up, self.norm, self.down = cut, nn.Linear(128, 256), nn.LayerNorm(256), nn.Linear(256, 128)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(x)
            x = x.detach() if self.cut else x
            for _ in range(2):
                x = x + self.down(torch.tanh(self.norm(self.up(x))))
            return x

    generator = torch.Generator().manual_seed(0)
    x = 0.02 * torch.randn(1, 1, 128, generator=generator) + 1e-4 * torch.randn(4, 16, 128, generator=generator)
    plain = predict_sampled(lambda: Behind(False), x, 1, at_least=1000)
    with pytest.warns(UserWarning, match="no gradient passes"):
        behind = predict_sampled(lambda: Behind(True), x, 1, at_least=1000)
    np.testing.assert_allclose(behind.log_apjn, plain.log_apjn, rtol=1e-6)
