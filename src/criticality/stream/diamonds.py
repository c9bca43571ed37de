"""What is between two joins of a stream: the skip, the norms, and the weights that scale the branch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from criticality.stream.flow import Flow
from criticality.stream.points import ADDITIONS, OPAQUE, VIEWS, Layout, Step

Kind = Literal["pre-norm", "post-norm", "sandwich", "output-norm", "no norm", "projection", "opaque"]

PARTS = (
    "Split",
    "Chunk",
    "Unbind",
    "Select",
    "Slice",
    "Index",
    "Narrow",
    "Gather",
    "Cat",
    "Roll",
    "Pad",
    "ConstantPad",
    "Where",
    "MaskedFill",
)
"""That hand parts of a value on, or put parts together."""

SCALES = ("Mul", "Div", "Sum", "Mean", "Neg", "Einsum", "Bmm")
"""That scale a value linearly, by numbers or by other values."""


@dataclass(frozen=True)
class Site:
    """A norm of the stream: what acts on it before the first weight of a branch, after its last, or after the addition.

    Attributes:
        module: that it is; ``""`` where it is no module of its own.
        functions: calls that it makes, in order.
        parameters: that it takes.
    """

    module: str
    functions: tuple[str, ...]
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        return self.module or "+".join(self.functions)


@dataclass(frozen=True)
class Branch:
    """The last thing that scales a branch linearly.

    Attributes:
        module: that holds it.
        function: in which it acts.
        parameters: that scale the branch when they are all scaled, biases included; empty where nothing does.
    """

    module: str
    function: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.parameters) or self.function


@dataclass(frozen=True)
class Diamond:
    """Skip and branches between two joins.

    Attributes:
        kind: where the norm is; ``projection`` where the skip is more than a sum or a view (that path, where it is linear and
            another is not, is none of the branches), ``opaque`` where it was not seen.
        norms: before the branch.
        output_norms: at the end of the branch, or after the addition.
        branches: what scales each path that is not the skip.
        blocked: whether something is added through which no gradient passes.
    """

    kind: Kind
    norms: tuple[Site, ...]
    output_norms: tuple[Site, ...]
    branches: tuple[Branch, ...]
    blocked: bool = False


class Reader:
    """Reads the diamonds of a model's data flow.

    Args:
        layout: of the forward pass.
        flow: in which the steps are.
    """

    def __init__(self, layout: Layout, flow: Flow):
        self.layout, self.flow = layout, flow
        self._heavy = self._heavy_visits()

    def diamond(self, step: Step) -> Diamond:
        """What one step holds."""
        if self.layout.name(step.join) == OPAQUE:
            return Diamond("opaque", (), (), ())
        skips = self._skips(step)
        norms = self._sites(self._before_weights(step, skips))
        roots = self._branch_roots(step, skips)
        projections = [] if skips else [root for root in roots if self._is_projection(root, step.start)]
        if len(projections) < len(roots):
            roots = [root for root in roots if root not in projections]
        ends = [self._branch_end(node, step.start) for node in roots]
        branches = tuple(dict.fromkeys(branch for branch, _ in ends if branch is not None))
        closing = [node for _, nodes in ends for node in nodes]
        after = [node for node in self.flow.nodes if step.join < node <= step.end]
        output_norms = self._sites([*closing, *after])
        call = self.layout.call(step.join)
        kind = self._kind(bool(skips), bool(norms), bool(closing), bool(self._sites(after)))
        return Diamond(kind, norms, output_norms, branches, bool(call and call.blocked))

    def norms_after(self, end: int) -> tuple[Site, ...]:
        """Norms between a point, such as the last one of a chain, and the first weight matrix that its value meets."""
        return self._sites(self._light_after(end, self.flow.nodes[-1] + 1 if self.flow.nodes else end, set()))

    @staticmethod
    def _kind(skip: bool, before: bool, closing: bool, after: bool) -> Kind:
        if not skip:
            return "projection"
        if after:
            return "post-norm"
        if before:
            return "sandwich" if closing else "pre-norm"
        return "output-norm" if closing else "no norm"

    def _keeps(self, node: int) -> bool:
        """Whether a node is a sum, a view or a scalar factor of one value of the stream."""
        name = self.layout.name(node)
        return name.startswith((*ADDITIONS, *VIEWS)) or (
            name.startswith(("Mul", "Div", "Sum", "Mean", "Neg")) and len(self.flow.joined.get(node, ())) == 1
        )

    def _skips(self, step: Step) -> set[int]:
        """Nodes of the paths from the start to the join that only sum, view or scale; the join's own number if it
        has the start as input.
        """
        forward = {step.start}
        for node in self.flow.inside(step.start, step.join):
            if self._keeps(node) and not self.layout.heavy(node) and any(b in forward for b in self.flow.joined[node]):
                forward.add(node)
        if not any(before in forward for before in self.flow.joined[step.join]):
            return set()
        needed = {step.join}
        for node in reversed((step.start, *self.flow.inside(step.start, step.join), step.join)):
            if node in needed and node != step.start:
                needed.update(before for before in self.flow.joined[node] if before in forward)
        return needed

    def _before_weights(self, step: Step, skips: set[int]) -> list[int]:
        """Nodes between the start and the first weight matrix of a branch that are no sums or views."""
        return self._light_after(step.start, step.join, skips)

    def _light_after(self, start: int, end: int, skips: set[int]) -> list[int]:
        """Nodes that are reached from the start without a weight matrix and are no sums or views."""
        reached, found = {start}, []
        for node in self.flow.inside(start, end):
            if not any(before in reached for before in self.flow.joined[node]):
                continue
            if self.layout.heavy(node):
                continue
            reached.add(node)
            name = self.layout.name(node)
            if node not in skips and not name.startswith((*VIEWS, *PARTS)):
                found.append(node)
        return found

    def _heavy_visits(self) -> set[int]:
        """Visits in which a weight matrix is used."""
        heavy: set[int] = set()
        for node in self.flow.nodes:
            if self.layout.heavy(node):
                heavy.update(self.layout.record.ancestors(self.layout.visit(node)))
        return heavy

    def _sites(self, nodes: Iterable[int]) -> tuple[Site, ...]:
        """Nodes grouped by the outermost module around them that uses no weight matrix."""
        groups: dict[tuple[int, int], list[int]] = {}
        for node in nodes:
            light = [v for v in self.layout.record.ancestors(self.layout.visit(node)) if v not in self._heavy]
            outermost = light[-1] if light else -1
            groups.setdefault((outermost, self.layout.visit(node) if outermost < 0 else -1), []).append(node)
        sites = []
        for (visit, _), members in groups.items():
            functions = [call.function for node in members if (call := self.layout.call(node)) is not None]
            parameters = [name for node in members for name in self.layout.parameters(node)]
            if visit >= 0:
                module = self.layout.record.visits[visit].name
                parameters += [name for name in self.layout.shapes if name.startswith(f"{module}.")]
            elif not any(function in _NORMS or function in _SCALING for function in functions):
                continue
            else:
                module = ""
            sites.append(Site(module, tuple(functions), tuple(dict.fromkeys(parameters))))
        return tuple(site for site in sites if site.functions)

    def _branch_roots(self, step: Step, skips: set[int]) -> list[int]:
        """Values that are added up, the skip left out: the ends of parallel branches."""
        pending = [node for node in skips if node != step.start] or [step.join]
        roots: dict[int, None] = {}
        while pending:
            for before in self.flow.joined[pending.pop(0)]:
                if before in skips or before == step.start:
                    continue
                sums = len(self.flow.joined[before]) > 1 and self.layout.name(before).startswith(ADDITIONS[:3])
                if sums and not self.layout.parameters(before):
                    pending.append(before)
                    continue
                roots[before] = None
        return sorted(roots)

    def _is_projection(self, root: int, start: int) -> bool:
        """Whether a value is linear in the stream: a skip by way of a weight matrix, where another path is not."""
        pending, seen = [root], {start}
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            before, call = self.flow.joined[node], self.layout.call(node)
            name = self.layout.name(node)
            product = call is not None and (bool(call.contracted) or call.function in _BY_STATISTICS)
            scales = name.startswith((*SCALES, *_POOLS)) and len(before) == 1
            if not (product or scales or name.startswith((*ADDITIONS, *VIEWS, *PARTS))):
                return False
            pending += before
        return True

    def _branch_end(self, root: int, start: int) -> tuple[Branch | None, list[int]]:
        """The last thing that scales a branch, and the nodes of a norm that it belongs to; walks back from the end."""
        pending, seen, biases = [root], set(), list[str]()
        while pending:
            node = pending.pop()
            if node in seen or node == start:
                continue
            seen.add(node)
            name, parameters = self.layout.name(node), self.layout.parameters(node)
            call = self.layout.call(node)
            if parameters and name.startswith(("Add", "Sub")) and not self.layout.heavy(node):
                biases += parameters
            elif parameters:
                return self._handle(node, parameters, biases)
            elif call is not None and call.function in _NORMS:
                return Branch(self._module(node), call.function, ()), [node]
            elif name.startswith((*ADDITIONS, *VIEWS, *PARTS, *SCALES)):
                pending += [one for one in self.flow.joined[node] if one > start]
        return None, []

    def _handle(self, node: int, parameters: tuple[str, ...], biases: list[str]) -> tuple[Branch, list[int]]:
        call = self.layout.call(node)
        function = self.layout.name(node) if call is None else call.function
        branch = Branch(self._module(node), function, tuple(dict.fromkeys([*parameters, *biases])))
        norm = not self.layout.heavy(node) and self._is_norm(node)
        return branch, [node] if norm else []

    def _is_norm(self, node: int) -> bool:
        call = self.layout.call(node)
        if call is not None and call.function in _NORMS:
            return True
        visit = self.layout.visit(node)
        inside = [
            one.function
            for one in self.layout.record.calls.values()
            if visit >= 0 and visit not in self._heavy and one.visit == visit
        ]
        return any(function in _NORMS or function in _NORMALIZING for function in inside)

    def _module(self, node: int) -> str:
        visit = self.layout.visit(node)
        return "" if visit < 0 else self.layout.record.visits[visit].name


_POOLS = ("AvgPool", "Conv", "Upsample")
_BY_STATISTICS = frozenset(("batch_norm",))
_NORMS = frozenset(("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "tanh", "erf", "normalize"))
_SCALING = frozenset(("rsqrt", "sqrt", "norm", "var", "std", "var_mean", "vector_norm"))
_NORMALIZING = _SCALING | {"pow"}
