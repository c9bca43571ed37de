"""How the entries of a random weight are distributed: a stratified sample of them, shared and never changed in place."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from criticality.shapes import Float64, Shaped

SAMPLE = 16_384
"""Entries in the sample of a random weight."""

AT_LEAST = 16_384
"""A floating tensor of fewer entries is always real."""

LARGEST_REAL = 2**26
"""A weight of more entries is never drawn really while a model is built: the operation that needs it is an error."""


Origins = frozenset[tuple[int, float, float]]
"""Draws by number, and of each from which entry to which."""


def overlap(one: Origins, other: Origins) -> bool:
    """Whether two have an entry of a draw in common, as a weight and a copy of it do, and not two parts of one."""
    draws = {draw for draw, _, _ in one} & {draw for draw, _, _ in other}
    return bool(draws) and any(
        draw == same and start < end and begin < stop
        for draw, start, stop in one
        if draw in draws
        for same, begin, end in other
    )


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries that all have one distribution.

    Attributes:
        values: a sample, ``(n,)``, or ``(1,)`` for a constant; several weights may share it.
        order: the sample stands in the order ``values[permutation(order)]``, so that two weights of the same
            distribution are independent of each other; 0 is the order of ``values``.
        matrix: ``(rows, columns)`` when the entries are those of a matrix with orthogonal rows or columns.
        origins: what the entries were computed from; entries of which no two ``overlap`` are independent.
    """

    values: Shaped[Tensor, " n"]
    order: int = 0
    matrix: tuple[int, int] | None = None
    origins: Origins = frozenset()

    @property
    def constant(self) -> bool:
        return len(self.values) == 1

    def ordered(self) -> Shaped[Tensor, " n"]:
        """The sample in its order."""
        return in_order(self.values, self.order)

    def part(self, start: int, length: int) -> Entries:
        """Some of the entries, by their places."""
        ranges = ((draw, low + start, min(high, low + start + length)) for draw, low, high in self.origins)
        return replace(self if start == 0 else self.reordered(start), origins=frozenset(ranges))

    def reordered(self, by: Hashable) -> Entries:
        """The same distribution in an order that depends on ``by`` only: other entries of the same weight."""
        return self if self.constant else replace(self, order=hash((self.order, by)) & (2**62 - 1) | 1)


def in_order(values: Shaped[Tensor, " n"], order: int) -> Shaped[Tensor, " n"]:
    """A sample in one of the orders of ``Entries``; a constant has none."""
    return values if len(values) == 1 or order == 0 else values[_permutation(order)]


@lru_cache(maxsize=64)
def _permutation(order: int) -> Tensor:
    return torch.randperm(SAMPLE, generator=torch.Generator("cpu").manual_seed(order), device="cpu")


@lru_cache(maxsize=1)
def _uniform() -> Tensor:
    """Midpoints of equal steps, shuffled once: moments of what is computed from them have next to no noise."""
    shuffled = torch.randperm(SAMPLE, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return (shuffled.double() + 0.5) / SAMPLE


@lru_cache(maxsize=1)
def standard_normal() -> Tensor:
    """Quantiles of N(0, 1), shuffled, ``(16384,)``, of mean square 1."""
    normal = torch.special.ndtri(_uniform())
    return normal / normal.square().mean().sqrt()


def _truncated_normal(mean: float, std: float, low: float, high: float) -> Tensor:
    a, b = (low - mean) / std, (high - mean) / std
    sign = -1.0 if a + b > 0 else 1.0  # the lower tail has the digits
    start, end = sorted((sign * a, sign * b))
    below, above = torch.special.ndtr(torch.tensor([start, end], dtype=torch.float64, device="cpu"))
    return mean + std * sign * corrected(torch.special.ndtri(below + (above - below) * _uniform()), start, end)


def corrected(sample: Float64[Tensor, " n"], low: float, high: float) -> Float64[Tensor, " n"]:
    """A sample of a standard normal law between two bounds with the mean and variance of that law, by scale and shift."""
    bounds = torch.tensor([low, high], dtype=torch.float64, device="cpu")
    density = torch.exp(-bounds.square() / 2) / (2 * math.pi) ** 0.5
    total = torch.special.ndtr(bounds).diff() if low + high <= 0 else -torch.special.ndtr(-bounds).diff()
    mean = -density.diff() / total
    variance = 1 - torch.where(density > 0, bounds * density, 0.0).diff() / total - mean**2
    centred = sample - sample.mean()
    return mean + centred * (variance / centred.square().mean()).sqrt()


QUANTILES: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "normal": ((0.0, 1.0), lambda mean, std: mean + std * standard_normal()),
    "truncated_normal": ((0.0, 1.0, -2.0, 2.0), _truncated_normal),
    "uniform": ((0.0, 1.0), lambda low, high: low + (high - low) * _uniform()),
    "exponential": ((1.0,), lambda rate: -torch.log1p(-_uniform()) / rate),
    "log_normal": ((1.0, 2.0), lambda mean, std: torch.exp(mean + std * standard_normal())),
    "bernoulli": ((0.5,), lambda p: (_uniform() < p).double()),
    "constant": ((float("nan"),), lambda value: torch.tensor([value], dtype=torch.float64, device="cpu")),
}
"""Name of a distribution -> defaults of its parameters, and its sample from them; a new one is one line."""


class Player:
    """Plays operations on samples, and remembers what it played: equal operations give one shared sample.

    Players of one seed that play on one model are of different ``series``, so that what they draw is independent.

    Attributes:
        generator: draws what becomes real.
        at_least: a new floating tensor of that many entries becomes a random weight.
        largest_real: most entries that a weight drawn really may have; 0 where nothing may become real.
    """

    MEMORY = 256

    def __init__(
        self, seed: int = 0, at_least: int = AT_LEAST, largest_real: int = LARGEST_REAL, series: int = 0
    ) -> None:
        self.at_least, self.seed = at_least, seed
        self.generator = torch.Generator("cpu").manual_seed(hash((seed, series)) & (2**62 - 1) if series else seed)
        self.largest_real = largest_real
        self._orders = itertools.count(seed * 1_000_003 + series * 250_007 + 1)
        self._played: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()

    def draw(self, distribution: str, *parameters: float) -> Entries:
        """Entries drawn from one of ``QUANTILES``, independent of all that was drawn before."""
        defaults, quantiles = QUANTILES[distribution]
        given = (*(float(p) for p in parameters), *defaults[len(parameters) :])
        values = self._remembered((distribution, *map(repr, given)), (), lambda: quantiles(*given))
        if len(values) == 1:
            return Entries(values)
        order = next(self._orders)
        return Entries(values, order, origins=frozenset(((order, 0, math.inf),)))

    def generator_of(self, entries: Entries) -> torch.Generator:
        """Draws entries that become real, the same ones of two weights whose entries are the same or a function of these."""
        if entries.order == 0:
            return self.generator
        return torch.Generator("cpu").manual_seed(hash((self.seed, entries.order)) & (2**62 - 1))

    def apply(self, function: Callable[..., Tensor], operands: Sequence[Entries], key: Hashable) -> Entries:
        """``function`` of the samples of the operands, entry by entry; ``key`` tells it from other functions.

        Operands in one order stay as they are, and the result has that order; otherwise each is put into its own order first.
        """
        orders = {e.order for e in operands if not e.constant}
        origins = frozenset().union(*(e.origins for e in operands))
        if len(orders) > 1:
            return Entries(function(*(e.ordered() for e in operands)), origins=origins)
        values = [e.values for e in operands]
        played = self._remembered((key, *map(id, values)), values, lambda: function(*values))
        return Entries(played, orders.pop() if orders else 0, origins=origins)

    def once(self, question: Callable[[Entries], Any], entries: Entries) -> Any:
        """The answer to a question on a sample, whatever its order, asked once of a sample that weights share."""
        return self._remembered((question, id(entries.values)), entries.values, lambda: question(entries))

    def _remembered(self, key: Hashable, alive: Any, compute: Callable[[], Any]) -> Any:
        if key not in self._played:
            self._played[key] = (alive, compute())  # what is alive keeps its id
            if len(self._played) > self.MEMORY:
                self._played.popitem(last=False)
        self._played.move_to_end(key)
        return self._played[key][1]


_PLAYER: ContextVar[Player] = ContextVar("player", default=Player(largest_real=0, series=3))  # noqa: B039


def player() -> Player:
    """The player of the innermost ``playing``; outside, one that draws nothing really."""
    return _PLAYER.get()


@contextmanager
def playing(with_player: Player) -> Iterator[Player]:
    """Operations on random weights inside are played by ``with_player``."""
    from criticality.weightless.playing import truncated_normals  # which plays on this

    token = _PLAYER.set(with_player)
    try:
        with truncated_normals():
            yield with_player
    finally:
        _PLAYER.reset(token)
