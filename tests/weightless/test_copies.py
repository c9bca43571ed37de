"""Weights that were not created in place: copies, averages, and those that torch computes from others."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from criticality.errors import InputsError, UndescribedError, UnknownLawError
from criticality.measurement import measure_ensemble
from criticality.reader import read_network
from criticality.weightless import WeightsIntegratedOut, build_without_weights, laws_of, predict_sampled
from criticality.weightless.deep import run_deep
from criticality.weightless.prepared import prepared
from criticality.weightless.weight import RandomWeight

WIDTH = 128


Wrap = Callable[[nn.Module], nn.Module]


class Block(nn.Module):
    """``x + b(gelu(a(norm(x))))``, weights of variance ``2.5 / fan_in``."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        for one in (self.a, self.b):
            nn.init.normal_(one.weight, std=(2.5 / one.in_features) ** 0.5)
            wrap(one)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(nn.functional.gelu(self.a(self.norm(x))))


class Tower(nn.Module):
    def __init__(self, depth: int = 4, wrap: Wrap = lambda one: one) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(wrap) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def cloned() -> nn.Module:
    """As ``nn.TransformerEncoder`` clones its layer."""
    tower = Tower()
    for number in range(1, 4):
        tower.blocks[number] = copy.deepcopy(tower.blocks[0])
    return tower


def cloned_and_scaled() -> nn.Module:
    tower = cloned()
    with torch.no_grad():
        for number, block in enumerate(tower.blocks, 1):
            block.b.weight.div_(number**0.5)
    return tower


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def averaged_with_itself() -> nn.Module:
    from timm.utils import ModelEmaV2, ModelEmaV3

    averages = ModelEmaV3(Tower(), decay=0.5)
    averages.update(averages.module)
    second = ModelEmaV2(averages.module)
    second.update(averages.module)
    return second.module


def loaded() -> nn.Module:
    tower = Tower()
    for parameter in tower.parameters():
        parameter.data = parameter.data.clone() * 2
    other = Tower()
    other.load_state_dict(tower.state_dict(), assign=True)
    return other


def teacher_and_student() -> nn.Module:
    student = Tower(2)
    return nn.Sequential(student, copy.deepcopy(student))


def inputs() -> Tensor:
    return torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(0))


FACTORIES = {one.__name__: one for one in (cloned, cloned_and_scaled, encoder, averaged_with_itself, loaded)}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("how", ["function", "built"])
def test_predicted_as_measured(name: str, how: str) -> None:
    factory = FACTORIES[name]
    measured = measure_ensemble(lambda seed: factory().eval(), inputs(), range(6))
    torch.manual_seed(50)
    model = (lambda: factory().eval()) if how == "function" else factory().eval()
    predicted = predict_sampled(model, inputs(), range(6), at_least=WIDTH**2)
    apart = (predicted.log_apjn - measured.log_apjn).values[..., 0]
    error = np.hypot(predicted.log_apjn_se.values[..., 0], measured.log_apjn_se.values[..., 0])
    assert np.all(np.abs(apart) <= 4 * error + 0.02), (apart, error)


@pytest.mark.parametrize("factor", [1.0, 0.5, -3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_multiple_of_a_weight_is_that_multiple(factor: float, dtype: torch.dtype) -> None:
    def factory() -> nn.Module:
        first = nn.Linear(WIDTH, 2 * WIDTH, bias=False, dtype=dtype)
        second = copy.deepcopy(first)
        with torch.no_grad():
            second.weight.mul_(factor)
        return nn.ModuleList((first, second))

    x = torch.randn(3, WIDTH, requires_grad=True)
    for model in (build_without_weights(factory), factory()):
        laws = (
            {}
            if isinstance(model[0].weight, RandomWeight)
            else dict(zip(model.parameters(), laws_of(model).values(), strict=True))
        )
        with WeightsIntegratedOut(laws):
            one, other = (layer(x) for layer in model)
            back, back_other = (torch.autograd.grad(y.sum(), x)[0] for y in (one, other))
        torch.testing.assert_close(other, factor * one, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(back_other, factor * back, rtol=1e-4, atol=1e-4)


def test_parts_of_one_weight_are_independent_and_a_part_with_its_whole_is_refused() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
            self.first, self.second = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
            with torch.no_grad():
                for part, one in zip(self.whole.weight.chunk(2), (self.first, self.second), strict=True):
                    one.weight.copy_(part)

    model = build_without_weights(Split)
    x = torch.randn(3, WIDTH)
    with WeightsIntegratedOut(model=model):
        one, other = model.first(x), model.second(x)
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.3
        with pytest.raises(UnknownLawError, match=r"the law of whole\.weight given first\.weight is unknown"):
            model.whole(x)


def test_copies_that_are_drawn_really_are_equal() -> None:
    def factory() -> nn.Module:
        layer = nn.Linear(WIDTH, WIDTH)
        return nn.ModuleList(parametrizations.weight_norm(copy.deepcopy(layer)) for _ in range(2))

    first, second = build_without_weights(factory)
    assert not isinstance(first.weight, RandomWeight)
    torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=0)


def test_the_exact_reader_refuses_copies() -> None:
    assert read_network(Tower(), inputs())
    with pytest.raises(UndescribedError, match=r"'blocks\.1\.b\.weight' is a copy of weight 'blocks\.0\.b\.weight'"):
        read_network(cloned(), inputs())
    layer = Tower()
    layer.blocks[2] = layer.blocks[0]
    with pytest.raises(UndescribedError, match=r"'blocks\.0\.b\.weight' is used both at .* and at "):
        read_network(layer, inputs())
    with pytest.raises(UndescribedError, match="is a copy of"):
        read_network(teacher_and_student(), inputs())


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "householder": lambda one: parametrizations.orthogonal(one, orthogonal_map="householder"),
    "older spectral norm": nn.utils.spectral_norm,
    "older weight norm": nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPUTED)
def test_a_built_model_whose_weights_are_computed_is_what_it_is(name: str) -> None:
    torch.manual_seed(0)
    model = Tower(2, COMPUTED[name]).eval()
    predicted = predict_sampled(model, inputs(), 1)
    measured = measure_ensemble(lambda seed: model, inputs(), [0])
    np.testing.assert_allclose(predicted.log_apjn.values, measured.log_apjn.values, rtol=1e-3, atol=1e-4)


def test_blocks_with_computed_weights_are_repeated_once_the_weights_are_kept() -> None:
    torch.manual_seed(0)
    model = Tower(2, parametrizations.spectral_norm).eval()
    with pytest.raises(
        InputsError, match=r"'blocks\.0\.a\.parametrizations\.weight\.original' .*remove_parametrizations"
    ):
        run_deep(prepared(model, inputs(), 0, at_least=2), [4])
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    assert not run_deep(prepared(model, inputs(), 0, at_least=2), [4]).run.tied
    assert run_deep(prepared(cloned(), inputs(), 0, at_least=2), [4]).run.tied


def test_an_orthogonal_weight_that_is_there_is_known_to_be() -> None:
    weight = nn.Parameter(torch.empty(64, 3, 8, 8))
    nn.init.orthogonal_(weight, gain=1.3)
    assert laws_of(nn.ParameterList([weight]))["0"].orthogonal
    assert laws_of(nn.ParameterList([weight.bfloat16()]))["0"].orthogonal
    assert not laws_of(nn.ParameterList([torch.randn(512, 64)]))["0"].orthogonal
