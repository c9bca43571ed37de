"""What an initialization drew and what it left, and who wants to be told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_SHOWN = 8


class Initialized(dict[str, int]):
    """Fan-in of each weight that was drawn, by its name.

    Attributes:
        untouched: names of the other weight matrices of the model, which are as they were: embeddings and heads, and, in the blocks
            that weights were drawn in, those of ``beside``.
        beside: of these the ones in the same blocks as weights that were drawn.
    """

    def __init__(self, model: nn.Module, written: Mapping[str, int]):
        super().__init__(written)
        blocks = {block for name in written if (block := _block_of(name))}
        matrices = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
        self.untouched = tuple(name for name in matrices if name not in written)
        self.beside = tuple(name for name in self.untouched if _block_of(name) in blocks)

    def __str__(self) -> str:
        return "\n".join([self._counts(), *(f"  {name}" for name in self.untouched)])

    def line(self) -> str:
        """The counts and the first names, on one line."""
        more = len(self.untouched) - _SHOWN
        names = [*self.untouched[:_SHOWN], *([f"{more} more"] if more > 0 else [])]
        return self._counts() + (f": {', '.join(names)}" if names else "")

    def record(self) -> dict[str, Any]:
        """As it is printed with ``--json``."""
        return {"drawn": len(self), "left": list(self.untouched)}

    def _counts(self) -> str:
        return f"{len(self)} weights drawn, {len(self.untouched)} left as they were"


def _block_of(name: str) -> str:
    """The name up to its first number, that of a block; empty where it has none."""
    parts = name.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if first is None else ".".join(parts[: first + 1])


_HEARD: ContextVar[list[Initialized] | None] = ContextVar("heard", default=None)


@contextmanager
def heard() -> Iterator[list[Initialized]]:
    """Every initialization inside, each once however many seeds it was made for."""
    found: list[Initialized] = []
    token = _HEARD.set(found)
    try:
        yield found
    finally:
        _HEARD.reset(token)


def tell(one: Initialized) -> Initialized:
    """The same, told to the ``heard`` around, if there is one."""
    found = _HEARD.get()
    if found is not None and not any(one == other and one.untouched == other.untouched for other in found):
        found.append(one)
    return one


def told() -> list[Initialized]:
    """What the ``heard`` around has been told."""
    return _HEARD.get() or []
