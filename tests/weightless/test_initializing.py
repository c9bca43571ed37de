"""One initialization for real weights and for random ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from criticality.errors import InputsError
from criticality.weightless.building import build_without_weights
from criticality.weightless.initializing import fan_in, initialize, initialize_branches
from criticality.weightless.laws import laws_of
from criticality.weightless.weight import RandomWeight


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(128, 4)
        self.patches = nn.Conv2d(32, 64, 4)
        self.embedding = nn.Embedding(600, 128)
        self.norm = nn.LayerNorm(128)
        self.positions = nn.Parameter(torch.randn(1, 200, 128))
        self.experts = nn.Parameter(torch.randn(4, 128, 200))
        self.adaptive = nn.Linear(128, 256)
        nn.init.zeros_(self.adaptive.weight)
        self.head = nn.Linear(128, 600, bias=False)
        self.head.weight = self.embedding.weight


BUILDERS: dict[str, Callable[[], Model]] = {"real": Model, "random": lambda: build_without_weights(Model)}


@pytest.mark.parametrize("kind", BUILDERS)
def test_fan_in_reaches_every_weight(kind: str) -> None:
    model = BUILDERS[kind]()
    before = laws_of(model)
    written = initialize(model, "fan-in")
    assert written == {
        "experts": 200,
        "attention.in_proj_weight": 128,
        "attention.out_proj.weight": 128,
        "patches.weight": 512,
        "adaptive.weight": 128,
    }
    laws = laws_of(model)
    for name, fan in written.items():
        assert laws[name].second_moment * fan == pytest.approx(1, rel=0.05)
    for name in ("attention.in_proj_bias", "attention.out_proj.bias", "patches.bias", "adaptive.bias"):
        assert laws[name].second_moment == 0
    for name in ("embedding.weight", "positions", "norm.weight"):
        assert laws[name].second_moment == before[name].second_moment
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("kind", BUILDERS)
def test_axes_come_from_the_data_flow(kind: str) -> None:
    model = BUILDERS[kind]()
    assert initialize(model, "fan-in", axes={"experts": 1, "head.weight": 1}) == {"experts": 128, "head.weight": 128}
    assert laws_of(model)["experts"].second_moment == pytest.approx(1 / 128, rel=0.05)
    assert laws_of(model)["embedding.weight"].second_moment == pytest.approx(1 / 128, rel=0.05)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_function_of_the_user(kind: str) -> None:
    def init(name: str, weight: Tensor, fan: int) -> None:
        nn.init.trunc_normal_(weight, std=2 * fan**-0.5)
        if name == "experts":
            nn.init.sparse_(weight[0], 0.5)

    model = BUILDERS[kind]()
    initialize(model, init)
    law = laws_of(model)["attention.in_proj_weight"]
    assert law.variance * 128 == pytest.approx(4, rel=0.05)
    assert isinstance(model.attention.in_proj_weight, RandomWeight) == (kind == "random")
    assert not isinstance(model.experts, RandomWeight)  # its numbers were needed
    assert (model.experts[0] == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)


def test_own_changes_nothing_and_the_rest_is_refused() -> None:
    model = Model()
    version = model.experts._version
    assert initialize(model, "own") == {}
    assert model.experts._version == version
    with pytest.raises(InputsError, match="init 'xavier' is unknown; allowed are own, fan-in and a function"):
        initialize(model, "xavier")
    with pytest.raises(InputsError, match=r"nothing\.weight is no parameter"):
        initialize(model, "fan-in", axes={"nothing.weight": 0})
    with pytest.raises(InputsError, match=r"parameter experts of shape \(4, 128, 200\) cannot be summed over axis 3"):
        fan_in("experts", model.experts, 3)


class Adapted(nn.Module):
    """A frozen layer with a pair of low rank beside it, as LoRA adds it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = (
            nn.Linear(128, 256),
            nn.Linear(128, 4, bias=False),
            nn.Linear(4, 256, bias=False),
        )
        self.base.requires_grad_(False)
        nn.init.zeros_(self.up.weight)


@pytest.mark.parametrize("build", [Adapted, lambda: build_without_weights(Adapted, at_least=2)])
def test_what_makes_an_adapter_nothing_at_first_stays(build: Callable[[], nn.Module]) -> None:
    model = build()
    assert set(initialize(model, "fan-in")) == {"base.weight", "down.weight"}
    assert laws_of(model)["up.weight"].second_moment == 0
    whole = build().requires_grad_()
    assert set(initialize(whole, "fan-in")) == {"base.weight", "down.weight", "up.weight"}


class Contracted(nn.Module):
    """Branches whose products say by their arguments which axes they sum over."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(4, 24, 6))
        self.merged = nn.Parameter(torch.randn(24, 6, 4))
        self.wide = nn.Parameter(torch.randn(24, 40))
        self.pairs = nn.Bilinear(24, 24, 5)
        self.back = nn.Linear(5, 24)

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("bld,hdk->bhlk", x, self.heads)
        x = x + torch.einsum("bhlk,zkh", heads.tanh(), self.merged)
        x = x + torch.tensordot(torch.tensordot(x, self.wide, 1).tanh(), self.wide.T, ([-1], [0]))
        return x + self.back(self.pairs(x, x))


def test_fan_in_of_products_by_their_arguments() -> None:
    model = nn.Sequential(Contracted(), Contracted())
    drawn = initialize_branches(model, "fan-in", torch.randn(2, 3, 24))
    expected = {"heads": 24, "merged": 24, "wide": 24, "pairs.weight": 576, "back.weight": 5}
    assert drawn == {f"{block}.{name}": fan for block in (0, 1) for name, fan in expected.items()}
    assert not drawn.untouched
