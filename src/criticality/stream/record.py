"""What was seen of one forward pass: calls, visits of modules, sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import Node


@dataclass(slots=True)
class Call:
    """What made a value.

    Attributes:
        number: how many calls made values before.
        function: as torch names it, such as ``linear``; of a value that was made out of sight the name of its node.
        node: of the autograd graph.
        shapes: of the outputs, by their number.
        visit: number of the innermost module that it was made in.
        parameters: names of those that it took, directly or by way of tensors made from them.
        blocked: whether it took a value that depends on the sources but passes no gradient on.
        contracted: of the weights that it took, the axes that it sums over.
    """

    number: int
    function: str
    node: Node
    shapes: dict[int, tuple[int, ...]]
    visit: int
    parameters: tuple[str, ...] = ()
    blocked: bool = False
    contracted: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Visit:
    """One run of one module.

    Attributes:
        name: of the module, as ``named_modules`` has it.
        parent: number of the visit that it was entered from; -1 of the outermost.
        entered, left: nodes of the tensors that came in and went out.
        kind: name of the module's class, for people.
    """

    name: str
    kind: str
    parent: int
    entered: tuple[Node, ...] = ()
    left: tuple[Node, ...] = ()

    @property
    def made(self) -> tuple[Node, ...]:
        """Of what went out, what had not come in."""
        return tuple(node for node in self.left if node not in self.entered)


@dataclass
class Record:
    """What was seen of one forward pass, by node; the graph lives as long as the record does.

    Attributes:
        calls: of each value what made it.
        visits: runs of modules, in the order in which they began.
        sources: from which paths of the data start.
        resumed: those of them that depend on inputs whose gradient does not reach them.
    """

    calls: dict[Node, Call] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    sources: list[Tensor] = field(default_factory=list)
    resumed: list[Node] = field(default_factory=list)

    def ancestors(self, visit: int) -> Iterator[int]:
        """A visit and those that it is in, from the inside out."""
        while visit >= 0:
            yield visit
            visit = self.visits[visit].parent


PASSED_ON = "alias"
"""Function of a value that is the very one before it."""

RESUMED = "where gradients begin"
"""Function of a value that no gradient passes and that is a source."""


Observe = Callable[[Call, Tensor], Tensor | None]
"""Called with each new value that depends on the sources, as soon as it is made; what it returns takes its place.  A method
``before_write``, where it has one, is called with each tensor that is about to be written to."""
