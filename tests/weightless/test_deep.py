"""A block run to any depth, against plain autograd, both directions of differentiating, and the exact theory."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from criticality import SymmetricKernel, make_norm, propagate, resnet
from criticality.errors import InputsError, StreamNotFoundError
from criticality.models import DynamicPointwise
from criticality.stream.blocks import periodic
from criticality.studies.classify import classify_sampled
from criticality.weightless import predict_sampled
from criticality.weightless.deep import run_deep
from criticality.weightless.prepared import prepared

WIDTH = 64


class Block(nn.Module):
    """``x + W dyt(x)``, the one-branch network of the theory; small weights, so that they are real where they may be."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.norm = DynamicPointwise(WIDTH, "dyt", alpha=1.0) if norm else nn.Identity()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.linear.weight, std=WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


class Net(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(norm) for _ in range(3))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def batch() -> Tensor:
    return torch.randn(4, 8, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_the_exact_theory_at_depths_that_were_never_built(mode):
    depths = (4, 40)
    runs = [run_deep(prepared(Net, batch(), seed, at_least=2), depths, mode=mode) for seed in range(6)]
    values = np.array([run.log_apjn for run in runs])
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    exact = [
        float(propagate(resnet(make_norm("dyt", alpha=1.0), depth=depth), SymmetricKernel.of(1.0)).log_apjn[0])
        for depth in depths
    ]
    assert np.all(error < 0.3)
    assert np.all(np.abs(values.mean(axis=0) - exact) < 3 * error + 0.03 * np.array(exact))
    assert runs[0].run.period == 1
    assert runs[0].run.names == ("blocks.0", "blocks.1", "blocks.2")


def test_fresh_weights_at_every_repeat():
    """The same small matrix again and again would make J grow by its largest singular value."""
    ready = prepared(lambda: Net(norm=False), batch(), 0, at_least=2)
    run = run_deep(ready, (50,))
    assert run.log_apjn[0] == pytest.approx(50 * math.log(2), rel=0.05)


class Branches(Net):
    """The same, of blocks that return their branch only."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(block.norm, block.linear) for block in self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_blocks_that_return_their_branch_only_are_as_those_that_add_it(mode):
    added, branches = (run_deep(prepared(net, batch(), 0, at_least=2), (4, 40), mode=mode) for net in (Net, Branches))
    assert np.array_equal(added.log_apjn, branches.log_apjn)
    assert branches.run.names == added.run.names


class Turns(nn.Module):
    """Blocks whose weights are weak and strong in turns."""

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in gains))
        for block, gain in zip(self.blocks, gains, strict=True):
            nn.init.normal_(block.linear.weight, std=gain * WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_a_pattern_of_two_is_repeated_as_in_a_model_built_as_deep():
    def deep(*gains: float) -> np.ndarray:
        return np.array(
            [run_deep(prepared(lambda: Turns(*gains), batch(), s, at_least=2), (12,)).log_apjn for s in range(4)]
        )

    built = predict_sampled(lambda: Turns(*((0.3, 1.5) * 6)), batch(), 4, at_least=2)
    found = deep(0.3, 1.5, 0.3, 1.5)
    error = float(built.log_apjn_se[0]) + found.std(ddof=1) / 2
    assert abs(found.mean() - float(built.log_apjn[0])) < 3 * error + 0.05
    assert deep(1.5, 1.5).mean() - float(built.log_apjn[0]) > 0.5


def test_weights_that_are_there_stand_for_their_laws_and_stay():
    torch.manual_seed(0)
    model = Net(norm=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = run_deep(prepared(model, batch(), 0), (50,))
    assert run.log_apjn[0] == pytest.approx(50 * math.log(2), rel=0.07)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_periods():
    assert [periodic(one) for one in ("dmmmmm", "abab", "lllllg", "lllfll", "a")] == [
        (1, 5),
        (2, 4),
        (6, 6),
        (4, 4),
        (1, 1),
    ]


def test_exponential_without_a_norm():
    found = classify_sampled(lambda: Net(norm=False), batch(), 2, depth=60).found
    assert found.kind == "exponential"
    assert found.coefficient == pytest.approx(math.log(2), rel=0.05)
    assert found.way == "sampled"
    assert math.isfinite(found.log_apjn_se[48])


def test_stretched_with_dyt():
    found = classify_sampled(Net, batch(), 3, depth=192).found
    assert found.kind == "stretched"
    assert 0.3 < found.exponent < 0.8


class Between(Net):
    """Something is done to the stream from block to block, outside of them."""

    def __init__(self, between: nn.Module | float, last: int = 3) -> None:
        super().__init__()
        self.between, self.last = between, last

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number < self.last:
                x = x * self.between if isinstance(self.between, float) else self.between(x)
        return self.head(x)


def test_what_is_done_between_blocks_is_not_left_out() -> None:
    with pytest.raises(StreamNotFoundError, match=r"between 'blocks\.0' and 'blocks\.1' the stream goes through 'mul'"):
        run_deep(prepared(Between(0.9), batch(), 0, at_least=2), [4])
    with pytest.raises(StreamNotFoundError, match="none is returned by such a module"):
        run_deep(prepared(Between(nn.LayerNorm(WIDTH)), batch(), 0, at_least=2), [4])
    assert run_deep(prepared(Between(0.9, last=1), batch(), 0, at_least=2), [4]).run.names == ("blocks.1", "blocks.2")
    assert run_deep(prepared(Between(nn.Dropout(0.1)), batch(), 0, at_least=2), [4]).run.seen == 3


def test_what_is_refused():
    with pytest.raises(InputsError, match="depth=3"):
        classify_sampled(Net, batch(), 1, depth=3)
    with pytest.raises(StreamNotFoundError):
        classify_sampled(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), batch(), 1)
