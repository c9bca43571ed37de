"""Read a model as a ``Network``: run it once without numbers, and turn what is between two points of its stream into sub-layers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from criticality.arguments import checked
from criticality.errors import CriticalityError, ModelFailedError, UndescribedError
from criticality.reader.evaluation import Evaluation
from criticality.reader.shadow import Shadow
from criticality.reader.start import start_kernels
from criticality.reader.sublayers import sublayer
from criticality.reader.tape import PRODUCTS, Tape, Value
from criticality.reader.terms import Seen, Stream, whole
from criticality.stream import Chain, Trace, named_points, trace
from criticality.stream.inputs import mapped
from criticality.stream.tensors import tensors_in
from criticality.stream.untouched import untouched
from criticality.theory import Network, Sublayer, TokenKernel
from criticality.weightless.copies import Copies
from criticality.weightless.laws import law_of
from criticality.weightless.weight import RandomWeight


class Reading:
    """One pass of a model without numbers, ready to be read.

    Args:
        model: with weights, or known by its laws (``build_without_weights``).
        inputs: of any form that ``measure`` takes, with the samples along the first axis.
        points: names of modules whose outputs (``name:input``: inputs) are the points of the stream, in place of those found.

    Raises:
        UndescribedError: it cannot run without numbers.
        ValueError: as ``trace``.
    """

    def __init__(self, model: nn.Module, inputs: Any, points: Sequence[str] | None = None):
        self.model, self.tape = model, Tape()
        self.samples = next((len(one) for one in tensors_in(inputs) if one.ndim), 1)
        try:
            with untouched(model):
                self.trace: Trace = trace(model, inputs, under=self.tape)
        except ModelFailedError as error:
            raise UndescribedError(f"the exact theory reads a network without its numbers: {error}") from error
        self.chain: Chain = self.trace.chains[0]
        if self.chain.side_inputs:
            raise UndescribedError(
                f"{self.chain.side_inputs[0]!r} is used along the whole stream, and the exact theory describes no side inputs"
            )
        self.points = list(self.chain.points)
        if points is not None:
            sides = [(one.removesuffix(":input"), "input" if one.endswith(":input") else "output") for one in points]
            self.points = named_points(self.trace.layout, sides)
        nodes = self.trace.layout.graph.nodes
        self._values = [self._value(nodes[point.node], point.name) for point in self.points]

    def network(self) -> Network:
        """The sub-layers between the points of the stream, blocks alike being one object.

        Raises:
            UndescribedError: the first call that the exact theory does not describe, with its module; a weight that has a part in
                several sub-layers.
        """
        known: dict[Hashable, Sublayer] = {}
        sublayers = []
        weights = _Weights({id(one): name for name, one in self.model.named_parameters()})
        for number, (start, end) in enumerate(zip(self._values, self._values[1:], strict=False)):
            weights.meet(start, end, self.points[number + 1].name)
            key = _signature(start, end)
            if key not in known:
                known[key] = self._sublayer(start, end, self.points[number + 1].name)
            sublayers.append(known[key])
        positions = [point.position for point in self.points]
        per_block = [sum(block < one <= block + 1 for one in positions) for block in range(round(positions[-1]))]
        each = per_block[0] if len(set(per_block)) == 1 else 1
        return Network(tuple(sublayers), sublayers_per_block=each, name=type(self.model).__name__)

    def kernels(self) -> list[TokenKernel]:
        """Expected kernels at the start of the stream, one for each sample.

        Raises:
            UndescribedError: as ``start_kernels``.
        """
        seen = Evaluation({}, self._where)(self._values[0])
        if not isinstance(seen, Seen):
            raise UndescribedError("the stream must start with tokens, and starts with scores of attention")
        return start_kernels(seen, self.samples)

    def _sublayer(self, start: Value, end: Value, name: str) -> Sublayer:
        shape = start.tensor.shape
        base = Stream(shape[:-1].numel(), shape[-1])
        seen = Evaluation({start.number: whole(base, shape)}, self._where)(end)
        if not isinstance(seen, Seen):
            raise UndescribedError(f"the stream must hold tokens at {name!r}, and holds scores of attention")
        try:
            return sublayer(seen, self.samples)
        except CriticalityError as error:
            raise UndescribedError(
                f"the sub-layer that ends at {name!r} is not read by the exact theory: {error}"
            ) from error

    def _value(self, node: Any, name: str) -> Value:
        found = [self.tape.by_node[node, output] for output in range(8) if (node, output) in self.tape.by_node]
        if not found:
            raise UndescribedError(
                f"the value at {name!r} must be made by a call that is seen, and is made out of sight"
            )
        return found[0]

    def _where(self, value: Value) -> str:
        """Name of the module that a value was made in; of a constant that of the next value that depends on the inputs."""
        record = self.trace.layout.record
        later = (one for one in self.tape.by_node.values() if one.number >= value.number)
        node = value.tensor.grad_fn or min(later, key=lambda one: one.number, default=value).tensor.grad_fn
        call = record.calls.get(node) if node is not None else None
        return record.visits[call.visit].name if call is not None and call.visit >= 0 else ""


@checked
def read_network(model: nn.Module, inputs: Any, points: Sequence[str] | None = None) -> Network:
    """The exact description of a model that is built of calls that the theory knows, whatever its classes are called.

    Read from the data flow of one pass in which nothing is computed but what does not depend on the inputs.

    Args:
        model: with weights, whose mean squares are taken, or known by its laws (``build_without_weights``).
        inputs: of any form that ``measure`` takes, with the samples along the first axis.
        points: as for ``Reading``.

    Raises:
        UndescribedError: what is not read, in one sentence that names the call and its module.
        ValueError: as ``measure``.
    """
    return Reading(model, inputs, points).network()


class _Weights:
    """The weights of products, sub-layer by sub-layer: the exact theory takes those of different ones for independent."""

    def __init__(self, names: dict[int, str]):
        self.names = names
        self.copies: Copies[tuple[Tensor, str]] = Copies(names)

    def meet(self, start: Value, end: Value, point: str) -> None:
        """The next sub-layer, which ends at a point of that name.

        Raises:
            UndescribedError: one of its weights was there before, or is a copy of one that was.
        """
        products = [value.operation for value in _between(start, end) if value.operation is not None]
        factors = [_leaves(one) for operation in products if operation.name in PRODUCTS for one in operation.given()]
        laws = {id(leaf): (leaf, law_of(leaf, orthogonal=False)) for leaves in factors for leaf in leaves}
        copied = {key: self.copies.original(leaf, law) for key, (leaf, law) in laws.items()}
        for leaves in factors:
            before = [found for leaf in leaves if (found := copied[id(leaf)]) is not None]
            if leaves and len(before) == len(leaves):
                ((weight, other), _), name = before[0], self._name(leaves[0])
                same = "is used" if weight is leaves[0] else f"is a copy of {self._name(weight)}, used"
                raise UndescribedError(
                    f"{name} {same} both at {other!r} and at {point!r}, and the exact theory describes sub-layers with"
                    " independent weights"
                )
        for leaf, law in laws.values():
            self.copies.add(leaf, law, (leaf, point))

    def _name(self, weight: Tensor) -> str:
        return f"weight {self.names[id(weight)]!r}" if id(weight) in self.names else "a weight"


def _between(start: Value, end: Value) -> list[Value]:
    """Values between two, the last of them included, that depend on the inputs."""
    found: dict[int, Value] = {}
    pending = [end]
    while pending:
        value = pending.pop()
        if value.number in found or value.number == start.number:
            continue
        found[value.number] = value
        pending += [] if value.operation is None else [one for one in value.operation.given() if one.depends]
    return list(found.values())


def _leaves(value: Value) -> list[Tensor]:
    """Matrices that a factor which does not depend on the inputs is, or is computed from."""
    if value.depends:
        return []
    if value.operation is None:
        return [value.tensor] if value.tensor.ndim >= 2 and value.tensor.is_floating_point() else []
    return [leaf for one in value.operation.given() for leaf in _leaves(one)]


def _signature(start: Value, end: Value) -> Hashable:
    """What is done between two values: calls, their constants and the laws of their weights."""
    numbers = {start.number: 0}
    lines: list[Hashable] = [tuple(start.tensor.shape)]
    pending = [(end, False)]
    while pending:
        value, ready = pending.pop()
        if value.number in numbers:
            continue
        operation = value.operation
        inputs = [] if operation is None else [one for one in operation.given() if one.open]
        if not ready:
            pending.append((value, True))
            pending += [(one, False) for one in reversed(inputs)]
            continue
        numbers[value.number] = len(numbers)
        if operation is None:
            lines.append(value.number)
            continue

        def shown(one: Value) -> Any:
            return numbers[one.number] if one.number in numbers else _constant(one)

        arguments = mapped(shown, (operation.args, operation.kwargs), Value)
        lines.append((operation.name, value.output, operation.inside, repr(arguments)))
    return tuple(lines)


_LARGEST = 2**16


def _constant(value: Value) -> str:
    tensor = value.tensor
    if isinstance(tensor, RandomWeight):
        pieces: Sequence[Any] | None = tensor.pieces()
        law = id(tensor) if pieces is None else [(length, id(entries.values)) for length, entries in pieces]
        return f"{tuple(tensor.shape)} {tensor.stride()} {law}"
    if isinstance(tensor, Shadow) or tensor.numel() > _LARGEST or tensor.is_meta:
        return f"value {value.number}"
    return f"{tuple(tensor.shape)} {tensor.dtype} {hash(_bytes(tensor))}"


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    return bytes(plain.view(torch.uint8).numpy().tobytes()) if plain.ndim else repr(plain.item()).encode()
