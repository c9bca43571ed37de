"""The values of one pass that may turn out to be points of the stream."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.autograd.graph import Node

from criticality.measurement.axes import Moment, moment, moment_of
from criticality.measurement.statistics import Axes
from criticality.stream import Call
from criticality.stream.points import ADDITIONS, OPAQUE
from criticality.stream.tensors import memory_of, node_name

_MUCH_LARGER = 4


class Seen:
    """The values that can be points, sums and all that comes before the first of them, until it is known which are.

    They are held, not copied: the norm or branch that takes a sum keeps it for the backward pass, too.  The moments of what is
    about to be overwritten, or is much larger than the stream can be, are taken at once.
    """

    def __init__(self) -> None:
        self._held: dict[Node, tuple[Tensor, int]] = {}
        self._taken: dict[Node, dict[Axes | None, Moment]] = {}
        self._in_memory: dict[int | None, list[Node]] = {}
        self._smallest = 2**62
        self._sums = 0

    def __call__(self, call: Call, tensor: Tensor) -> None:
        name = node_name(call.node)
        adds = name.startswith(ADDITIONS) and sum(before is not None for before, _ in call.node.next_functions) > 1
        self._sums += adds
        if not (adds or name == OPAQUE or self._sums == 0) or len(call.shapes) != 1 or tensor.ndim < 2:
            return
        self._smallest = min(self._smallest, tensor.numel())
        if tensor.numel() > _MUCH_LARGER * self._smallest:
            self._taken[call.node] = moment_of(tensor)
            return
        self._held[call.node] = (tensor.detach(), tensor._version)
        self._in_memory.setdefault(memory_of(tensor), []).append(call.node)

    def before_write(self, tensor: Tensor) -> None:
        """Take the moments of all values in the memory of a tensor."""
        for node in self._in_memory.pop(memory_of(tensor), ()) if self._in_memory else ():
            held = self.value(node)
            self._held.pop(node, None)  # dropout out of training gives what it is given: a value may be seen twice
            if held is not None:
                self._taken[node] = moment_of(held)

    def value(self, node: Node) -> Tensor | None:
        """That of a node, where it is held and as it was."""
        held, version = self._held.get(node, (None, -1))
        return held if held is not None and held._version == version else None

    def moments(self, nodes: Sequence[Node], axes: Axes | None) -> dict[Node, Moment]:
        """Of the nodes whose values were seen; everything that is held is forgotten."""
        found: dict[Node, Moment] = {}
        for node in nodes:
            if node in self._taken:
                of = self._taken[node]
                found[node] = of.get(axes) or next(iter(of.values()))
            elif (held := self.value(node)) is not None:
                found[node] = moment(held, axes)
        self._held.clear()
        self._taken.clear()
        return found
