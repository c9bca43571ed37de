"""Weights that are copies of others: layers that were cloned, a teacher of its student, the average of one with itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from criticality.errors import UnknownLawError
from criticality.weightless.entries import overlap
from criticality.weightless.law import Law

_ROUNDINGS = 32
"""Of the weight's precision: entries that are apart by less, in standard deviations, are in proportion."""

_FEW = 256

Owner = TypeVar("Owner")


class _Known(NamedTuple, Generic[Owner]):
    weight: Tensor
    law: Law
    owner: Owner


class Copies(Generic[Owner]):
    """Weights with what belongs to each, asked for each new one whether it is a multiple of one that is there.

    Args:
        names: of weights by their ``id``, for errors.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self.names = names or {}
        self._of_draw: dict[int, list[_Known[Owner]]] = {}
        self._alike: dict[Hashable, list[_Known[Owner]]] = {}

    def add(self, weight: Tensor, law: Law, owner: Owner) -> None:
        """Note a weight; copies of others need not be, as what is a copy of them is one of the others."""
        known = _Known(weight, law, owner)
        if not law.origins and law.paired and law.variance:
            self._alike.setdefault(_look(weight, law), []).append(known)
        for draw in {draw for draw, _, _ in law.origins}:
            self._of_draw.setdefault(draw, []).append(known)

    def original(self, weight: Tensor, law: Law) -> tuple[Owner, float] | None:
        """What belongs to the weight that this one is a multiple of, and the factor.

        Raises:
            UnknownLawError: it was computed from entries of another weight in another way.
        """
        related = self._related(weight, law)
        for known in related:
            factor = _factor(known, weight, law)
            if factor is not None:
                return known.owner, factor
        for known in related:
            if overlap(known.law.origins, law.origins):
                raise UnknownLawError(
                    f"the law of {self._name(weight)} given {self._name(known.weight)} is unknown, because the one was computed"
                    " from entries of the other, and the model uses both: build the model, and predict from its own weights"
                )
        return None

    def _related(self, weight: Tensor, law: Law) -> list[_Known[Owner]]:
        draws = {draw for draw, _, _ in law.origins}
        if draws:
            found = [known for draw in draws for known in self._of_draw.get(draw, [])]
            return [known for known in found if known.law.variance] if found and law.variance else []
        return self._alike.get(_look(weight, law), []) if law.paired and law.variance else []

    def _name(self, weight: Tensor) -> str:
        return self.names.get(id(weight), f"a weight of shape {tuple(weight.shape)}")


def _look(weight: Tensor, law: Law) -> Hashable:
    """Equal for weights whose entries are in proportion."""
    few = law.sample[:_FEW].abs()
    return weight.shape, int(few.argmax()), int(few.argmin())


def _factor(known: _Known[Owner], weight: Tensor, law: Law) -> float | None:
    """By what the entries of a weight are multiplied to be those of another; ``None`` where they are not in proportion."""
    first = known.law
    if (known.weight.shape, known.weight.stride()) != (weight.shape, weight.stride()) or first.origins != law.origins:
        return None
    if len(first.sample) != len(law.sample) or first.orthogonal != law.orthogonal:
        return None
    factor = float(first.sample @ law.sample / first.sample.square().sum())
    apart = float((law.sample - factor * first.sample).abs().max())
    precision = max(_ROUNDINGS * torch.finfo(weight.dtype).eps, 1e-6)
    return factor if factor and apart <= precision * law.variance**0.5 else None
