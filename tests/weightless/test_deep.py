"""Blocks run to any depth with fresh weights, against models built that deep and against the exact recursion."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from criticality.errors import InputsError, NotFiniteError, StreamNotFoundError
from criticality.phases import ResidualStep, amplification
from criticality.pointwise import Pointwise, pointwise_function
from criticality.theory.norms import PointwiseNorm
from criticality.weightless import predict_sampled
from criticality.weightless.deep import run_deep
from criticality.weightless.prepared import prepared

WIDTH = 256


class Block(nn.Module):
    """``x + gain W phi(x)``, entries of ``W`` from N(0, 1 / width)."""

    def __init__(self, norm: Callable[[], nn.Module], gain: float = 1.0):
        super().__init__()
        self.norm, self.out = norm(), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.out.weight, std=gain * WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.norm(x))


def _blocks(*gains: float, norm: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(*(Block(norm, gain) for gain in gains))


def _inputs() -> Tensor:
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))
    return x / x.square().mean().sqrt()


def _deep(factory: Callable[[], nn.Module], depths: list[int], seeds: int = 4, **settings: str) -> np.ndarray:
    ready = (prepared(factory, _inputs(), seed, at_least=2) for seed in range(seeds))
    return np.array([run_deep(one, depths, **settings).log_apjn for one in ready])


def test_meets_the_exact_recursion() -> None:
    depths = [10, 50, 200]
    step = ResidualStep(PointwiseNorm(Pointwise(pointwise_function(np.tanh, name="tanh"))), 1.0, 0.0)
    exact = amplification(step, depths, 1.0)  # 2.6, 7.2, 15
    found = _deep(partial(_blocks, 1.0, 1.0), depths)
    error = found.std(0, ddof=1) / 2
    assert (error < 0.05 * exact[-1]).all()
    assert (np.abs(found.mean(0) - exact) < 4 * error + 0.05).all()


def test_forward_and_backward_are_one_thing_twice() -> None:
    forward, backward = (_deep(partial(_blocks, 1.0, 1.0), [5, 20], mode=mode) for mode in ("forward", "backward"))
    error = np.hypot(forward.std(0, ddof=1), backward.std(0, ddof=1)) / 2
    assert (np.abs(forward.mean(0) - backward.mean(0)) < 4 * error + 0.02).all()
    assert (forward[0] != backward[0]).all()


def test_meets_models_that_are_built_as_deep() -> None:
    """Two kinds of blocks take turns: the period is repeated, not the last block."""
    pattern = (0.3, 1.5)
    deep = predict_sampled(partial(_blocks, *(pattern * 6)), _inputs(), 4)
    found = _deep(partial(_blocks, *(pattern * 2)), [12])
    one_kind = _deep(partial(_blocks, 1.5, 1.5), [12])
    error = float(deep.log_apjn_se[0]) + found.std(ddof=1)
    assert abs(found.mean() - float(deep.log_apjn[0])) < 3 * error + 0.05
    assert abs(one_kind.mean() - float(deep.log_apjn[0])) > 0.5


def test_a_first_block_of_another_kind_is_not_repeated() -> None:
    ready = prepared(partial(_blocks, 3.0, 1.0, 1.0, 1.0), _inputs(), 0, at_least=2)
    run = run_deep(ready, [3]).run
    assert (run.names, run.period, run.seen) == (("1", "2", "3"), 1, 4)


def test_a_model_that_is_there_stands_for_its_laws() -> None:
    torch.manual_seed(0)
    model = _blocks(1.0, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = np.array([run_deep(prepared(model, _inputs(), seed), [30]).log_apjn for seed in range(4)])
    built = _deep(partial(_blocks, 1.0, 1.0), [30])
    assert abs(found.mean() - built.mean()) < 2 * np.hypot(found.std(ddof=1), built.std(ddof=1))
    assert len({float(one) for one in found.flat}) == 4
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_growth_beyond_floating_point_is_cut_off() -> None:
    """``x + W x`` doubles ``q`` and ``J`` in each block: single precision holds 255 of them."""
    ready = prepared(partial(_blocks, 1.0, 1.0, norm=nn.Identity), _inputs(), 0, at_least=2)
    found = run_deep(ready, [40, 100, 4000])
    assert found.depths == (40, 100)
    assert np.allclose(found.log_apjn, np.array([40, 100]) * np.log(2), rtol=0.05)
    for mode in ("forward", "backward"):
        with pytest.raises(NotFiniteError, match="finite for one block"):
            run_deep(ready, [300], mode=mode)


def test_what_is_refused() -> None:
    ready = prepared(partial(_blocks, 1.0, 1.0), _inputs(), 0, at_least=2)
    with pytest.raises(InputsError, match="depths"):
        run_deep(ready, [0])
    with pytest.raises(InputsError, match="mode='sideways'"):
        run_deep(ready, [1], mode="sideways")  # type: ignore[arg-type]

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.two, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = x + self.one(x).tanh()
            return self.last((x + self.two(x).tanh()).tanh())

    with pytest.raises(StreamNotFoundError, match="must be modules that take the stream"):
        run_deep(prepared(Flat, _inputs(), 0), [3])
