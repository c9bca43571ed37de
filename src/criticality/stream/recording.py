"""Watching a forward pass: which call made each value, in which module, with which parameters.

Values are known by their node of the autograd graph, so that what is recorded can be laid over the graph, and an
operation in place makes a new value.  Nothing is hooked into the model: calls are seen by a ``TorchFunctionMode``, and
modules as they are entered and left, by way of the attribute under which torch keeps a module's compiled call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from criticality.stream.inputs import mapped
from criticality.stream.opened import composite, opened
from criticality.stream.record import PASSED_ON, RESUMED, Call, Observe, Record, Visit
from criticality.stream.tensors import (
    address_of,
    contracted_axes,
    node_name,
    node_of,
    nodes_in,
    same_index,
    tensors_in,
    writes,
    written_to,
)


class Recording(TorchFunctionMode):
    """Records a forward pass, and makes sources of the look-ups of token ids.

    Args:
        model: whose parameters are named.
        tokens: integer inputs: a look-up of these in a table is a source, as is every later one in the same table.
        observe: called with every value that depends on the sources.
        computed: whether integers that are computed from the inputs, such as hashes of ids, count as token ids.
        resumed: whether values that gradients do not pass, such as codes that are looked up or what was detached, are sources
            of what is made of them where gradients are recorded.
    """

    _LOOKUPS = ("embedding", "index_select", "__getitem__", "embedding_bag")

    def __init__(
        self,
        model: nn.Module,
        tokens: Sequence[Tensor] = (),
        observe: Observe | None = None,
        computed: bool = False,
        resumed: bool = False,
    ):
        super().__init__()
        self._resumed: WeakIdKeyDictionary | None = WeakIdKeyDictionary() if resumed else None
        self._computed: WeakIdKeyDictionary | None = WeakIdKeyDictionary() if computed else None
        self.record = Record()
        self._tokens = list(tokens)
        self._tables: set[int] = set()
        self._observe = observe
        self._before_write: Callable[[Any], None] | None = getattr(observe, "before_write", None)
        self._model = model
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._state = {*self._names, *(id(buffer) for buffer in model.buffers())}
        self._derived: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._cut_off: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._inside: list[int] = [-1]
        self._modules = {module: name for name, module in model.named_modules()}
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._entered: dict[Node, int] = {}
        self.failed_in = ""
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in _QUESTIONS:
            return func(*args, **kwargs)
        if name == "__get__":
            return self._attribute(func, args)
        if composite(func):
            with self:
                return opened(func)(*args, **kwargs)
        if self._resumed is not None and torch.is_grad_enabled():
            args, kwargs = mapped(self._resume, args), mapped(self._resume, kwargs)
        given = tensors_in((args, kwargs))
        for tensor in written_to(name, args, kwargs):
            self._keep(tensor)
        output = func(*args, **kwargs)
        if self._computed is not None and self._is_computed(given, output):
            self._computed[output] = True
        looked_up = output[0] if name == "embedding_bag" and isinstance(output, tuple) else output
        if name in self._LOOKUPS and self._is_source(given, looked_up):
            source = self._source(looked_up)
            return source if looked_up is output else (source, *output[1:])
        with torch._C.DisableTorchFunction():  # what is asked of tensors here is no call of the model
            replaced = self._note(name, given, output, args, kwargs)
        return output if replaced is None else replaced

    def _attribute(self, func: Any, args: Any) -> Any:
        """What an attribute of a tensor is; one that is a tensor, such as ``weight.T``, is followed as a call is."""
        value = func(*args)
        if not isinstance(value, Tensor):
            return value
        replaced = self._note(getattr(func.__self__, "__name__", "__get__"), list(tensors_in(args)), value)
        return value if replaced is None else replaced

    def _note(
        self, name: str, given: list[Tensor], output: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Tensor | None:
        """Record a call; what is to take the place of its output, if anything."""
        calls = self.record.calls
        for tensor in given:
            if tensor is not output and tensor.grad_fn is not None and tensor.grad_fn not in calls:
                self._add(tensor, self._passed_on(tensor) or self._call(node_name(tensor.grad_fn), tensor.grad_fn))
        parameters = self._parameters(given)
        values = given[: _VALUES_OF.get(name, len(given))]
        blocked = any(not tensor.requires_grad and tensor in self._cut_off for tensor in values)
        depends = any(tensor.requires_grad for tensor in values)
        for tensor in tensors_in(output):
            if tensor.grad_fn is not None:
                call = calls.get(tensor.grad_fn)
                if call is None:
                    call = self._call(name, tensor.grad_fn, parameters, blocked)
                    if parameters:
                        call.contracted = self._contracted(name, given, args, kwargs or {})
                    if parameters or writes(name):
                        self._hidden(name, tensor.grad_fn, parameters, call.contracted)
                replaced = self._add(tensor, call)
                if tensor is output and replaced is not None:
                    if replaced.grad_fn is not None:
                        calls[replaced.grad_fn] = call
                    return replaced
            elif (depends or blocked) and not tensor.requires_grad:
                self._cut_off[tensor] = self._inside[-1]
            elif parameters and not tensor.requires_grad:
                self._derived[tensor] = parameters
        return None

    def enter(self, value: Any) -> Any:
        """Note tensors that come from outside the model, such as its inputs: they are made in no module; what is to be put in."""

        def noted(tensor: Tensor) -> Tensor:
            if tensor.grad_fn is None or tensor.grad_fn in self.record.calls:
                return tensor
            call = self._call("input", tensor.grad_fn)
            replaced = self._add(tensor, call)
            if replaced is not None and replaced.grad_fn is not None:
                self.record.calls[replaced.grad_fn] = call
            return tensor if replaced is None else replaced

        return mapped(noted, value)

    def _passed_on(self, tensor: Tensor) -> Call | None:
        """The call of a value that a function of somebody's own returns as it was given, to be told of the backward pass."""
        inputs = [node for node, _ in tensor.grad_fn.next_functions] if tensor.grad_fn is not None else []
        place = next(
            (node for node in inputs if node is not None and self._entered.get(node) == tensor.data_ptr()), None
        )
        if place is None or not isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction):
            return None
        call = self._call(PASSED_ON, tensor.grad_fn)
        call.visit = self.record.calls[place].visit if place in self.record.calls else -1
        return call

    def _hidden(
        self, name: str, node: Node, parameters: tuple[str, ...], contracted: dict[str, tuple[int, ...]]
    ) -> None:
        """Note the nodes inside a call, such as the product before a view: operations in place can bring them forward."""
        pending = [before for before, _ in node.next_functions]
        while pending:
            inner = pending.pop()
            if inner is None or inner in self.record.calls or node_name(inner) == "torch::autograd::AccumulateGrad":
                continue
            call = self._call(name, inner, parameters)
            call.contracted = contracted
            self.record.calls[inner] = call
            pending += [before for before, _ in inner.next_functions]

    def _call(self, function: str, node: Node, parameters: tuple[str, ...] = (), blocked: bool = False) -> Call:
        self._calls += 1
        return Call(self._calls - 1, function, node, {}, self._inside[-1], parameters, blocked)

    def _add(self, tensor: Tensor, call: Call) -> Tensor | None:
        self.record.calls[call.node] = call
        call.shapes[tensor.output_nr] = tuple(tensor.shape)
        if self._observe is None or not tensor.is_floating_point() or tensor.numel() == 0:
            return None
        with torch._C._EnableTorchFunction():
            return self._observe(call, tensor)

    def _parameters(self, given: Iterable[Tensor]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for tensor in given:
            name = self._names.get(id(tensor)) or self._new_name(tensor)
            if name:
                found[name] = None
            elif not tensor.requires_grad:
                found |= dict.fromkeys(self._derived.get(tensor, ()))
        return tuple(found)

    def _new_name(self, tensor: Tensor) -> str:
        """Of a parameter that came into its module during the pass, as those of sharded models are gathered."""
        if not isinstance(tensor, nn.Parameter) or id(tensor) in self._names:
            return ""
        self._names |= {id(parameter): name for name, parameter in self._model.named_parameters()}
        return self._names.setdefault(id(tensor), "")

    def _contracted(
        self, function: str, given: Iterable[Tensor], args: Sequence[Any], kwargs: Any
    ) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for tensor in given:
            for name in self._parameters([tensor]):
                axes = contracted_axes(function, tensor, args, kwargs)
                if axes:
                    found[name] = axes
        return found

    def _keep(self, tensor: Any) -> None:
        """A copy of a parameter or a buffer before it is written to; of a weight that holds no numbers there is none.  Whoever
        observes is told of any tensor.
        """
        if isinstance(tensor, Tensor) and id(tensor) in self._state and id(tensor) not in self.saved:
            before = tensor.detach().clone()
            with torch._C.DisableTorchFunction():
                same = before.is_meta == tensor.is_meta
            if same:
                self.saved[id(tensor)] = (tensor, before)
        if self._before_write is not None and isinstance(tensor, Tensor):
            self._before_write(tensor)

    def _unseen(self, value: Any) -> None:
        """Note what a module returns and no call was seen to make, such as the output of a function of somebody's own."""
        for tensor in tensors_in(value):
            if tensor.grad_fn is not None and tensor.grad_fn not in self.record.calls:
                self._add(tensor, self._call(node_name(tensor.grad_fn), tensor.grad_fn))

    def _is_source(self, given: list[Tensor], output: Any) -> bool:
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.requires_grad:
            return False
        tables = [tensor for tensor in given if tensor.is_floating_point()]
        indices = [tensor for tensor in given if tensor.dtype in (torch.int64, torch.int32)]
        if len(tables) != 1 or not indices or tables[0].ndim < 2:
            return False
        if not any(self._is_token(index) for index in indices):
            return id(tables[0]) in self._tables
        self._tables.add(id(tables[0]))
        return True

    def _is_token(self, index: Tensor) -> bool:
        computed = self._computed is not None and index in self._computed
        return computed or any(same_index(index, token) for token in self._tokens)

    def _is_computed(self, given: list[Tensor], output: Any) -> bool:
        """Whether integers of every place are made from token ids, and not only told from one another as a mask is."""
        whole = isinstance(output, Tensor) and not output.is_floating_point() and not output.is_complex()
        return whole and output.dtype != torch.bool and any(map(self._is_token, given))

    def _source(self, output: Tensor, function: str = "embedding") -> Tensor:
        leaf = output.detach().requires_grad_()
        self.record.sources.append(leaf)
        value = leaf.clone()  # the model may add to it in place
        replaced = self._note(function, [leaf], value)
        return value if replaced is None else replaced

    def _resume(self, tensor: Tensor) -> Tensor:
        """A source in place of a floating value that no gradient passes, the same for all that take it."""
        if self._resumed is None or tensor not in self._cut_off or not tensor.is_floating_point() or tensor.ndim == 0:
            return tensor
        if tensor not in self._resumed:
            self._inside.append(self._cut_off[tensor])
            with torch._C.DisableTorchFunction():
                self._resumed[tensor] = self._source(tensor.clone(), RESUMED)  # one of inference mode cannot be a leaf
            self._inside.pop()
            self.record.resumed.append(self._resumed[tensor].grad_fn)
        resumed: Tensor = self._resumed[tensor]
        return resumed

    def where(self) -> str:
        """Name of the module in which the model failed, empty when it did not."""
        return self.failed_in

    @contextmanager
    def watching(self) -> Iterator[Record]:
        """Record what the calling thread does inside."""
        thread = threading.get_ident()

        def watched(module: nn.Module, name: str) -> Callable[..., Any]:
            original = module._compiled_call_impl or module._call_impl

            def call(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() != thread:
                    return original(*args, **kwargs)
                return self._visit(name, type(module).__name__, original, args, kwargs)

            return call

        before = [(module, module.__dict__.get("_compiled_call_impl", _ABSENT)) for module in self._modules]
        for module, name in self._modules.items():
            module.__dict__["_compiled_call_impl"] = watched(module, name)
        try:
            with self:
                yield self.record
        finally:
            for module, held in before:
                if held is _ABSENT:
                    module.__dict__.pop("_compiled_call_impl", None)
                else:
                    module.__dict__["_compiled_call_impl"] = held

    def _visit(self, name: str, kind: str, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a module inside a visit of its own."""
        with torch._C.DisableTorchFunction():  # what is looked at here, and below, is no call of the model
            given = {node: tensor for tensor in tensors_in((args, kwargs)) if (node := node_of(tensor)) is not None}
            self._entered |= {node: memory for node, tensor in given.items() if (memory := address_of(tensor))}
            visit = Visit(name, kind, self._inside[-1], tuple(given))
        self.record.visits.append(visit)
        self._inside.append(len(self.record.visits) - 1)
        try:
            output = run(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                self._unseen(output)
                visit.left = nodes_in(output)
        except BaseException:
            self.failed_in = self.failed_in or visit.name
            raise
        finally:
            self._inside.pop()
        return output


_ABSENT = object()

_VALUES_OF = dict.fromkeys(("expand_as", "reshape_as", "type_as", "view_as"), 1) | dict.fromkeys(
    (
        *("empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like"),
        *("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"),
    ),
    0,
)
"""Calls that take the shape or type of a tensor, and how many of the tensors before it give values."""


_QUESTIONS = frozenset(
    (
        "size",
        "dim",
        "numel",
        "stride",
        "is_floating_point",
        "is_contiguous",
        "__len__",
        "__set__",
        "data_ptr",
        "storage_offset",
    )
)
"""Calls that make no tensor and are asked often."""
