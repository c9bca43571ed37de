"""The autograd graph of a forward pass as a ``Flow``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from criticality.stream.flow import Flow
from criticality.stream.tensors import node_of


@dataclass(frozen=True)
class Graph:
    """Nodes that a value depends on, each after its inputs.

    Attributes:
        nodes: of autograd.
        inputs: of each the numbers of those that it takes, each once.
        number: of each node.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[tuple[int, ...], ...]
    number: dict[Node, int]

    def flow(self, sources: Sequence[Tensor], sink: Node) -> Flow:
        """Paths from source tensors to a node."""
        starts = (node_of(source) for source in sources)
        return Flow(
            self.inputs, frozenset(self.number[node] for node in starts if node in self.number), self.number[sink]
        )


def graph_of(roots: Sequence[Node]) -> Graph:
    """Everything that the roots depend on, in an order of execution."""
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        pending = [(root, iter(_inputs(root)))]
        while pending:
            node, rest = pending[-1]
            for before in rest:
                if before not in seen:
                    seen.add(before)
                    pending.append((before, iter(_inputs(before))))
                    break
            else:
                order.append(node)
                pending.pop()
    number = {node: index for index, node in enumerate(order)}
    inputs = tuple(tuple(dict.fromkeys(number[before] for before in _inputs(node))) for node in order)
    return Graph(tuple(order), inputs, number)


def _inputs(node: Node) -> list[Node]:
    return [before for before, _ in node.next_functions if before is not None]
