"""The residual streams of a model as a table for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabulate import tabulate
from torch import nn

from criticality.arguments import checked
from criticality.stream.diamonds import Diamond, Reader
from criticality.stream.find import Chain, trace
from criticality.stream.points import Point
from criticality.stream.untouched import untouched


@dataclass(frozen=True)
class StreamChain:
    """One residual stream.

    Attributes:
        name: common part of the names of its points.
        points: ``steps + 1`` of them.
        diamonds: between them; that of a step that ends at no point, such as one before the first block, is left out.
        side_inputs: where values come from that are used along the depth and held fixed.
    """

    name: str
    points: tuple[Point, ...]
    diamonds: tuple[Diamond, ...]
    side_inputs: tuple[str, ...]

    def __str__(self) -> str:
        depth = sum(point.boundary for point in self.points) - 1
        side = f"; held fixed along the depth: {', '.join(self.side_inputs)}" if self.side_inputs else ""
        title = f"{self.name or 'stream'}: {depth} blocks, {len(self.diamonds)} branchings{side}"
        rows = [_row(self.points[0], None)] + [
            _row(point, diamond) for point, diamond in zip(self.points[1:], self.diamonds, strict=True)
        ]
        headers = ["block", "point", "shape", "kind", "norm", "scaled by"]
        return f"{title}\n\n{tabulate(rows, headers=headers, disable_numparse=True)}"


@dataclass(frozen=True)
class Stream:
    """What ``stream`` found; printed, it is a table for each chain."""

    model: str
    chains: tuple[StreamChain, ...]

    def __str__(self) -> str:
        return "\n\n".join([f"{self.model}: {len(self.chains)} residual stream(s)", *map(str, self.chains)])

    def record(self) -> dict[str, Any]:
        """As numbers, strings and lists."""
        return {
            "model": self.model,
            "chains": [
                {
                    "name": chain.name,
                    "side_inputs": list(chain.side_inputs),
                    "points": [
                        {"block": point.position, "name": point.name, "shape": list(point.shape)}
                        for point in chain.points
                    ],
                    "diamonds": [
                        {
                            "kind": diamond.kind,
                            "norms": [str(site) for site in diamond.norms],
                            "output_norms": [str(site) for site in diamond.output_norms],
                            "scaled_by": [list(branch.parameters) for branch in diamond.branches],
                            "blocked": diamond.blocked,
                        }
                        for diamond in chain.diamonds
                    ],
                }
                for chain in self.chains
            ],
        }


@checked
def stream(model: nn.Module, inputs: Any) -> Stream:
    """The residual streams of a model: points, norms, what scales each branch, side inputs.

    They are found in the data flow of one forward pass in evaluation mode: a point is a value through which every path
    from the input to the output goes and at which a branch is added (docs/howto/any_model).  No name decides anything.

    Raises:
        InputsError: nothing in the inputs is floating or looked up in an embedding.
        ModelFailedError: the model's own code raised.
        StreamNotFoundError: no such points.
    """
    with untouched(model):
        found = trace(model, inputs)
        chains = tuple(_chain(Reader(found.layout, chain.flow), chain) for chain in found.chains)
    return Stream(type(model).__name__, chains)


def _chain(reader: Reader, chain: Chain) -> StreamChain:
    ends = {step.end: step for step in chain.steps}
    diamonds = tuple(reader.diamond(ends[point.node]) for point in chain.points[1:])
    return StreamChain(chain.name, chain.points, diamonds, chain.side_inputs)


def _row(point: Point, diamond: Diamond | None) -> list[str]:
    place = [f"{point.position:g}", point.name, " x ".join(map(str, point.shape))]
    if diamond is None:
        return [*place, "", "", ""]
    norms = [str(site) for site in (*diamond.norms, *diamond.output_norms)]
    scaled = [str(branch) for branch in diamond.branches]
    kind = f"{diamond.kind}, no gradient through a branch" if diamond.blocked else diamond.kind
    return [*place, kind, ", ".join(norms) or "-", ", ".join(scaled) or "-"]
