"""Running with the weights integrated out has the statistics of running with drawn weights."""

import math
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.weightless import Law, WeightsIntegratedOut, build_without_weights
from criticality.weightless.weight import RandomWeight

Run = Callable[[Tensor, Tensor], Tensor]


def gaussian(std: float) -> Law:
    """N(0, std^2) as 16,384 quantiles, of which the variance is exact."""
    sample = torch.special.ndtri((torch.arange(16_384, dtype=torch.float64) + 0.5) / 16_384)
    return Law(std * sample / sample.square().mean().sqrt())


def unread(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight whose numbers must not be read: nan would show in every result."""
    return torch.full(shape, math.nan, dtype=dtype)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def statistics(run: Run, x: Tensor, weight: Tensor) -> Tensor:
    """Second moments of outputs and input gradients, and those of the first rows with the second ones, ``(4,)``.

    The gradient sent back is partly the output itself: that makes forward and backward pass depend on each other, which the
    second moment of the input gradient shows.
    """
    x = x.clone().requires_grad_()
    y = run(x, weight)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(12))
    (gradient,) = torch.autograd.grad((y * probe).sum() + 0.5 * y.square().sum(), x)
    y = y.detach()
    return torch.stack(
        [y.square().mean(), (y[0] * y[1]).mean(), gradient.square().mean(), (gradient[0] * gradient[1]).mean()]
    ).double()


def _qkv(x: Tensor, weight: Tensor) -> Tensor:
    q, k, v = (x @ part.T for part in weight.chunk(3))
    return torch.softmax(q @ k.T / 8, -1) @ v


def _fused_qkv(x: Tensor, weight: Tensor) -> Tensor:
    q, k, v = functional.linear(x, weight).chunk(3, dim=-1)
    return torch.softmax(q @ k.T / 8, -1) @ v


IDS = torch.tensor([3, 7, 3, 0])


CASES: dict[str, tuple[Run, Tensor, tuple[int, ...]]] = {
    "linear": (functional.linear, _numbers(4, 64), (96, 64)),
    "linear, rows as wide": (functional.linear, _numbers(64, 64), (96, 64)),
    "addmm": (lambda x, w: torch.addmm(torch.full((96,), 0.3), x, w), _numbers(4, 64), (64, 96)),
    "matmul": (lambda x, w: x @ w, _numbers(4, 64), (64, 96)),
    "patches": (lambda x, w: functional.conv2d(x, w, stride=4), _numbers(2, 4, 8, 8), (96, 4, 4, 4)),
    "overlapping": (lambda x, w: functional.conv2d(x, w, padding=1), _numbers(2, 8, 4, 4), (32, 8, 3, 3)),
    "table": (lambda x, w: x * functional.embedding(IDS, w), _numbers(4, 64), (96, 64)),
    "tied table": (lambda x, w: functional.linear(x * functional.embedding(IDS, w), w), _numbers(4, 64), (96, 64)),
    "chunked weight": (_qkv, _numbers(4, 64), (192, 64)),
    "chunked output": (_fused_qkv, _numbers(4, 64), (192, 64)),
    "experts, bmm": (torch.bmm, _numbers(3, 4, 64), (3, 64, 96)),
    "experts, bmm of a view": (lambda x, w: torch.bmm(x, w.transpose(1, 2)), _numbers(3, 4, 64), (3, 96, 64)),
    "experts, indexed": (
        lambda x, w: torch.stack([functional.linear(x[i], w[i]) for i in (0, 1)]),
        _numbers(3, 4, 64),
        (3, 96, 64),
    ),
}
SEEDS = 150


@pytest.mark.parametrize("name", CASES)
def test_second_moments_are_those_of_drawn_weights(name: str) -> None:
    run, x, shape = CASES[name]
    std, weight, generator = 0.125, unread(*shape), torch.Generator().manual_seed(13)
    drawn = torch.stack([statistics(run, x, std * torch.randn(shape, generator=generator)) for _ in range(SEEDS)])
    sampled = []
    for seed in range(SEEDS):
        with WeightsIntegratedOut({weight: gaussian(std)}, seed=seed):
            sampled.append(statistics(run, x, weight))
    sampled = torch.stack(sampled)
    error = ((drawn.var(0) + sampled.var(0)) / SEEDS).sqrt()
    assert (error[[0, 2]] < 0.08 * drawn.mean(0)[[0, 2]]).all()  # so that five of them mean something
    assert ((sampled.mean(0) - drawn.mean(0)).abs() <= 5 * error).all(), (sampled.mean(0), drawn.mean(0), error)
    # and as broad: a spread of SEEDS numbers has a relative error of about 1 / sqrt(2 SEEDS) = 0.06, of each of the two
    ratio = sampled.std(0) / drawn.std(0)
    assert ((ratio > 0.6) & (ratio < 1 / 0.6)).all(), ratio


def test_rows_that_are_looked_up_are_equal_for_equal_ids() -> None:
    weight = unread(96, 64)
    with WeightsIntegratedOut({weight: gaussian(1.0)}, seed=1):
        rows = functional.embedding(torch.tensor([3, 7, 3]), weight)
        again = functional.embedding(torch.tensor([7]), weight, padding_idx=5)
        padding = functional.embedding(torch.tensor([5, 7]), weight, padding_idx=5)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], again[0])
    assert not torch.allclose(rows[0], rows[1])
    assert not padding[0].any()
    assert torch.equal(padding[1], again[0])


def _twice(x: Tensor, weight: Tensor) -> Tensor:
    h = functional.linear(x, weight)
    return functional.linear(x + torch.tanh(h), weight)  # both uses ask along x


def test_tied_layer_used_twice() -> None:
    width, seeds = 512, 60
    x = _numbers(4, width)
    weight, generator = unread(width, width), torch.Generator().manual_seed(14)
    law = gaussian(width**-0.5)
    drawn = torch.stack(
        [statistics(_twice, x, width**-0.5 * torch.randn(width, width, generator=generator)) for _ in range(seeds)]
    )
    sampled = []
    for seed in range(seeds):
        with WeightsIntegratedOut({weight: law}, seed=seed):
            sampled.append(statistics(_twice, x, weight))
    sampled = torch.stack(sampled)
    error = ((drawn.var(0) + sampled.var(0)) / seeds).sqrt()
    assert (error[[0, 2]] < 0.02 * drawn.mean(0)[[0, 2]]).all()
    assert ((sampled.mean(0) - drawn.mean(0)).abs() <= 5 * error).all(), (sampled.mean(0), drawn.mean(0), error)
    # weights that are drawn anew at the second use would not pass
    untied = []
    for seed in range(seeds):
        other = unread(width, width)

        def anew(x: Tensor, weight: Tensor, other: Tensor = other) -> Tensor:
            return functional.linear(x + torch.tanh(functional.linear(x, weight)), other)

        with WeightsIntegratedOut({weight: law, other: law}, seed=seed):
            untied.append(statistics(anew, x, weight))
    assert ((torch.stack(untied).mean(0) - drawn.mean(0)).abs() > 5 * error)[2]


def test_models_may_write_to_a_product_in_place() -> None:
    """``y += x`` after a linear layer, as Falcon does: the same numbers and gradients as ``y + x``."""
    weight, x = unread(64, 64), _numbers(2, 5, 64)
    results = []
    for in_place in (False, True):
        leaf = x.clone().requires_grad_()
        with WeightsIntegratedOut({weight: gaussian(0.125)}, seed=2):
            y = functional.linear(leaf, weight).permute(1, 0, 2)
            y = y.add_(leaf.permute(1, 0, 2)) if in_place else y + leaf.permute(1, 0, 2)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
        results.append((y.detach(), gradient))
    assert all(torch.equal(plain, written) for plain, written in zip(*results, strict=True))


def test_an_expert_that_no_token_chose() -> None:
    weight, x = unread(32, 64), torch.zeros(0, 64, requires_grad=True)
    with WeightsIntegratedOut({weight: gaussian(0.125)}):
        y = functional.linear(x, weight)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (y.shape, gradient.shape) == ((0, 32), (0, 64))


def test_renew_inside_the_mode_notes_the_memory_of_the_weight() -> None:
    weight = unread(128, 64)
    with WeightsIntegratedOut({weight: gaussian(0.1)}, seed=1) as mode:
        mode.renew()
    assert weight.untyped_storage()._cdata in mode._memories


def test_two_uses_on_the_same_rows_agree() -> None:
    weight, x = unread(256, 128), _numbers(4, 128)
    with WeightsIntegratedOut({weight: gaussian(0.1)}, seed=3):
        first, second = functional.linear(x, weight), functional.linear(x, weight)
        both = functional.linear(torch.stack([x[0] + 2 * x[1]]), weight)[0]
    assert torch.allclose(first, second, atol=1e-5)  # float32
    assert torch.allclose(both, first[0] + 2 * first[1], atol=1e-4)


def test_a_view_lies_where_it_would_lie() -> None:
    weight = unread(3, 256, 128)
    with WeightsIntegratedOut({weight: gaussian(0.1)}):
        view = weight.transpose(1, 2)[1]
        assert (view.stride(), view.storage_offset(), view.is_contiguous()) == ((1, 128), 256 * 128, False)
        assert weight.is_contiguous()


def test_the_seed_decides_all_numbers() -> None:
    def numbers(seed: int) -> Tensor:
        model = build_without_weights(lambda: nn.Sequential(nn.Linear(256, 512), nn.Dropout(0.5), nn.Linear(512, 256)))
        x = _numbers(4, 256).requires_grad_()
        with WeightsIntegratedOut(seed=seed):
            y = model(x)
            (gradient,) = torch.autograd.grad(y.square().sum(), x)
        return torch.cat([y.detach(), gradient])

    one = numbers(1)
    assert torch.equal(one, numbers(1))
    assert not torch.isclose(one, numbers(2)).any(0).all()
    assert (one - numbers(2)).std() > 0.5 * one.std()


def test_log_j_is_a_smooth_function_of_alpha() -> None:
    """The second difference at a step over its square tends to a second derivative; noise of size e would add e / step^2."""
    width, depth = 128, 3
    weights = {unread(width, width, dtype=torch.float64): gaussian(width**-0.5) for _ in range(depth)}
    start = _numbers(4, width).double()

    def log_j(alpha: float, seed: int = 1) -> float:
        x = start.clone().requires_grad_()
        with WeightsIntegratedOut(weights, seed=seed):
            y = x
            for weight in weights:
                y = y + functional.linear(torch.tanh(alpha * y), weight)
            (gradient,) = torch.autograd.grad(y, x, start)
        return math.log(gradient.square().sum().item() / start.square().sum().item())

    def curvature(step: float) -> float:
        return (log_j(0.7 + step) - 2 * log_j(0.7) + log_j(0.7 - step)) / step**2

    assert abs(curvature(1e-2)) > 0.1
    assert curvature(1e-3) == pytest.approx(curvature(1e-2), rel=0.01)  # the next term is of order step^2 = 1e-4
    assert abs(log_j(0.7, 2) - log_j(0.7, 1)) > 1e-3  # what a new seed at each alpha would add


def test_random_state_is_restored() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    weight, inside = unread(128, 64), []
    for seed in (1, 1, 2):
        with WeightsIntegratedOut({weight: gaussian(0.1)}, seed=seed) as mode:
            functional.linear(_numbers(4, 64), weight)
            with mode:  # entered again by what it opens: only the outermost exit restores
                pass
            inside.append(torch.rand(3))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inside[0], inside[1])
    assert not torch.equal(inside[0], inside[2])
    with pytest.raises(RuntimeError), WeightsIntegratedOut(seed=7):
        torch.rand(3) @ torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read off /proc")
def test_large_weights_are_never_held() -> None:
    size = 20_000  # the weight would take 1.6 GB
    before, peak = _resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = build_without_weights(lambda: nn.Linear(size, size, bias=False))
    assert isinstance(model.weight, RandomWeight)
    x = torch.ones(1, size, requires_grad=True)
    with WeightsIntegratedOut(seed=1):
        y = model(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert after <= max(peak, before + 200 * 2**20)
    # entries uniform in +- 1 / sqrt(size): each output has the variance 1 / 3; five standard errors of 20,000 squares
    for found in (y, gradient):
        assert abs(3 * found.square().mean().item() - 1) < 5 * (2 / size) ** 0.5
    # the two agree: sum of all outputs = x . gradient, with the ones on both sides
    assert y.sum().item() == pytest.approx(gradient.sum().item(), rel=1e-3, abs=0.05)
