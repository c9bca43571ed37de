"""The calls of a forward pass in order, with all that they were given: what made each value, from which others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from criticality.errors import UnknownLawError
from criticality.reader.shadow import Shadow
from criticality.stream.inputs import mapped
from criticality.stream.opened import composite, opened
from criticality.stream.tensors import tensors_in
from criticality.weightless.weight import RandomWeight


@dataclass(eq=False, slots=True)
class Value:
    """A tensor between two operations; one that is written to is another value afterwards.

    Attributes:
        number: in the order in which they were made.
        tensor: itself, kept alive.
        operation: that made it; ``None`` of inputs, parameters and buffers.
        output: its number among the outputs of the operation.
        version: of the tensor when it was made; a later one means that its numbers are no longer these.
        depends: whether it depends on the inputs.
    """

    number: int
    tensor: Tensor
    operation: Operation | None = None
    output: int = 0
    version: int = 0
    depends: bool = False

    @property
    def open(self) -> bool:
        """Whether calls must say what it is: it depends on the inputs, or on random weights in more than a view."""
        return self.depends or isinstance(self.tensor, Shadow)

    @property
    def known(self) -> bool:
        """Whether it has numbers that do not depend on the inputs."""
        return not self.open and not isinstance(self.tensor, RandomWeight)


@dataclass(eq=False, slots=True)
class Operation:
    """A call of a function of torch.

    Attributes:
        name: of the function, without what marks it as in place.
        function: itself.
        args, kwargs: with a ``Value`` in the place of each tensor.
        several: whether it returns several tensors.
        inside: of a view of another tensor, whether it was written to: the other changes, too.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    several: bool = False
    inside: bool = False

    def given(self) -> Iterator[Value]:
        """The values that it takes, in order."""
        yield from values_in(self.args)
        yield from values_in(self.kwargs)


def values_in(tree: Any) -> Iterator[Value]:
    """Values of nested tuples, lists and mappings, in order."""
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from values_in(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from values_in(branch)


@dataclass(eq=False)
class Tape(TorchFunctionMode):
    """Notes every call of the model that runs under it, and lets products with weights be shadows: nothing is computed but
    what does not depend on the inputs, such as masks and rotations."""

    made: dict[int, Value] = field(default_factory=dict)
    by_node: dict[tuple[Node, int], Value] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        if composite(func):
            with self:
                return opened(func)(*args, **kwargs)
        arguments = mapped(self.value, (tuple(args), dict(kwargs)))
        output = _run(func, name, args, kwargs)
        written = args[0] if args and isinstance(args[0], Tensor) and _in_place(name) else None
        operation = Operation(_plain(name), func, arguments[0], arguments[1], isinstance(output, (tuple, list)))
        if written is not None:
            operation.inside = isinstance(written, Shadow) and written._is_view()
            self._make(written, operation, 0)
            return output
        for number, tensor in enumerate(tensors_in(output)):
            if id(tensor) not in self.made or self.made[id(tensor)].tensor is not tensor or operation.several:
                self._make(tensor, operation, number)
        return output

    def value(self, tensor: Tensor) -> Value:
        """What a tensor is now."""
        found = self.made.get(id(tensor))
        return self._make(tensor, None, 0) if found is None else found

    def _make(self, tensor: Tensor, operation: Operation | None, output: int) -> Value:
        version = 0 if tensor.is_inference() else tensor._version
        value = Value(self.count, tensor, operation, output, version, tensor.requires_grad)
        self.count += 1
        self.made[id(tensor)] = value
        if tensor.grad_fn is not None:
            self.by_node[tensor.grad_fn, tensor.output_nr] = value
        return value


def _run(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    tensors = list(tensors_in((args, kwargs)))
    if any(isinstance(one, Shadow) for one in tensors) or (name in _OF_WEIGHTS and any(map(_is_weight, tensors))):
        return _shadowed(func, args, kwargs)
    try:
        return func(*args, **kwargs)
    except UnknownLawError:
        return _shadowed(func, args, kwargs)


def _shadowed(func: Any, args: Any, kwargs: Any) -> Any:
    def shadow(tensor: Tensor) -> Tensor:
        return Shadow.of(tensor) if _is_weight(tensor) else tensor

    args, kwargs = mapped(shadow, (tuple(args), dict(kwargs)))
    return func(*args, **kwargs)


def _is_weight(tensor: Tensor) -> bool:
    return isinstance(tensor, RandomWeight) or (
        isinstance(tensor, nn.Parameter) and tensor.ndim >= 2 and tensor.is_floating_point()
    )


def _name(func: Any) -> str:
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        name = str(getattr(getattr(func, "__self__", None), "__name__", name))
        return name if name in _PROPERTIES and func.__name__ == "__get__" else "__len__"
    return name


def _in_place(name: str) -> bool:
    return name in _AUGMENTED or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _plain(name: str) -> str:
    """Name of the function without what marks it as in place, as reflected, or as an operator."""
    if name in _AUGMENTED:
        return _AUGMENTED[name]
    if name in _OPERATORS:
        return _OPERATORS[name]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


_AUGMENTED = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div"}
_OPERATORS = {
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul",
    "__truediv__": "div", "__rtruediv__": "rdiv", "__rdiv__": "rdiv", "true_divide": "div", "divide": "div",
    "__matmul__": "matmul", "__rmatmul__": "rmatmul", "mm": "matmul", "bmm": "matmul", "__neg__": "neg", "negative": "neg",
    "__pow__": "pow", "__rpow__": "rpow", "multiply": "mul", "subtract": "sub", "concat": "cat", "concatenate": "cat",
}  # fmt: skip
_PROPERTIES = frozenset(("T", "mT", "H", "mH", "data"))
PRODUCTS = frozenset(
    ("linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv3d")
)
_OF_WEIGHTS = PRODUCTS | {"embedding", "index_select"}
_QUESTIONS = frozenset(
    ("size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "is_complex", "is_contiguous",
     "__len__", "data_ptr", "storage_offset", "get_device", "requires_grad_", "element_size", "__format__", "__repr__",
     "__hash__", "__bool__")
)  # fmt: skip
