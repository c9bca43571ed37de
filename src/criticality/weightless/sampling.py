"""Run a model with its weights integrated out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from criticality.arguments import Seed, checked
from criticality.errors import UnknownLawError
from criticality.randomness import forked, seed_everything
from criticality.stream.opened import composite, opened
from criticality.stream.sharded import is_sharded
from criticality.stream.tensors import memory_of, tensors_in
from criticality.weightless import products, views  # noqa: F401  (they fill the table of rules)
from criticality.weightless.copies import Copies
from criticality.weightless.law import Law
from criticality.weightless.roots import Operand, Root
from criticality.weightless.rules import RULES, getters
from criticality.weightless.span import Span


class WeightsIntegratedOut(TorchFunctionMode):
    """Under this mode a model runs on its real input with random weights that are never held.

    A product of ``X`` (``N`` rows) with a weight of independent entries is drawn from its distribution given ``X`` and all that was
    asked of that weight before, forward and backward (``criticality.weightless.revealed``): for Gaussian entries the joint
    distribution of all activations and gradients is that of the model with drawn weights, at any width, tied weights
    included; for other
    laws it is so for sums over many entries.  Where that is not cheaper (``N`` near the width), or the function is no such product
    (overlapping or grouped convolutions, anything without a rule), the weight is drawn for the call and forgotten;
    the backward pass draws
    the same numbers again.  Everything else runs as it is.

    Numbers depend on ``seed``, on which weight they are for and on shapes, never on values: with a fixed seed results
    are smooth functions of the small parameters.  torch's own random state is seeded inside and put back at the exit.

    Forget the mode and its graph to forget what was revealed; ``renew`` makes the next calls meet fresh weights.

    Args:
        weights: laws of parameters that hold numbers; the numbers are not read. Tensors with an attribute ``law``
            (``RandomWeight``) are found where they are used.
        seed: of all numbers.
        model: that will run: errors then name its parameters, and sharded ones are found where they are gathered.

    Example:
        >>> layer = torch.nn.Linear(64, 512, bias=False)
        >>> x = torch.ones(1, 64, requires_grad=True)
        >>> with WeightsIntegratedOut({layer.weight: Law(torch.tensor([-0.125, 0.125]))}, seed=1):
        ...     y = layer(x)
        >>> bool(abs(y.var() - 1) < 0.3)  # 64 entries of variance 1 / 64
        True
    """

    @checked
    def __init__(
        self, weights: Mapping[Tensor, Law] | None = None, *, seed: Seed = 0, model: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.names = {} if model is None else {id(one): name for name, one in model.named_parameters()}
        self.seed, self.generation = seed, 0
        self._given = list((weights or {}).items())
        self._depth = 0
        self.renew()

    def renew(self, generation: int | None = None) -> None:
        """Forget all that is known of the weights: what runs next has fresh ones, of the next generation or of one by number."""
        with torch._C.DisableTorchFunction():  # the mode itself would take the weights for random ones here
            self._renew(self.generation + 1 if generation is None else generation)

    def _renew(self, generation: int) -> None:
        self.generation = generation
        self._roots: dict[int, Root] = {}
        self._strange: set[int] = set()
        self._copies: Copies[Root] = Copies(self.names)
        self._memories: dict[int | None, Root | None] = {}
        self._last: tuple[Tensor, int, Span] | None = None
        for weight, law in self._given:
            root = self._add(weight, law)
            memory = weight.untyped_storage()._cdata
            self._memories[memory] = None if memory in self._memories else root

    def again(self) -> None:
        """Forget what was revealed of the same weights: a repeated pass asks anew, and what differs by rounding only is no second
        question."""
        self.renew(self.generation)

    def __enter__(self) -> WeightsIntegratedOut:
        if self._depth == 0:
            self._random = forked()
            self._random.__enter__()
            seed_everything(self.seed)
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._depth -= 1
        if self._depth == 0:
            self._random.__exit__(*exception)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _OF_THE_GRAPH:
            return func(*args)
        kwargs = kwargs or {}
        if not any(self.find(one) for one in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        if func in RULES:
            found = RULES[func](self, func, *args, **kwargs)
            if found is not NotImplemented:
                return found
        elif composite(func):
            with self:
                return opened(func)(*args, **kwargs)
        return self.with_drawn(func, *args, **kwargs)

    def find(self, tensor: Any) -> tuple[Root, Tensor] | None:
        """The random weight that ``tensor`` is or is a view of, and the view on ``meta``; ``None`` if it is a tensor of numbers."""
        if not isinstance(tensor, Tensor):
            return None
        root = self._roots.get(id(tensor))
        if root is not None:
            return root, root.shadow
        # A rule that runs calls of its own in this mode asks about a view as it is.
        with torch._C.DisableTorchFunction():
            return self._find_view(tensor)

    def _find_view(self, tensor: Tensor) -> tuple[Root, Tensor] | None:
        law = getattr(tensor, "law", None)
        if isinstance(law, Law):
            added = self._add(tensor, law)
            return added, added.shadow
        if tensor.layout is not torch.strided:
            return None
        if self._given and isinstance(tensor, nn.Parameter) and id(tensor) not in self._strange:
            self._find_gathered()
        root = self._memories.get(memory_of(tensor))
        if root is None:
            return None
        if tensor.is_meta:
            return root, tensor
        return root, root.shadow.as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset() - root.weight.storage_offset()
        )

    def _find_gathered(self) -> None:
        """Sharded weights, which are other tensors while they are gathered."""
        named = {} if self.model is None else dict(self.model.named_parameters())
        self._strange |= set(map(id, named.values()))
        for weight, _ in self._given:
            gathered = named.get(self.names.get(id(weight), ""))
            root = self._roots[id(weight)]
            if gathered is not None and gathered is not weight and is_sharded(weight) and not is_sharded(gathered):
                self._roots[id(gathered)] = self._memories[gathered.untyped_storage()._cdata] = root

    def real(self, tensor: Any) -> Any:
        """``tensor``, drawn if it is a random weight."""
        found = self.find(tensor)
        return found[0].real(found[1]) if found else tensor

    def span(self, rows: Tensor, operand: Operand) -> Span | None:
        """The span of the rows of a product, shared between weights that meet the same rows (queries, keys and values)."""
        if not operand.fresh():
            return None
        if self._last is None or not _same(self._last[0], rows) or self._last[1] != rows._version:
            with torch.no_grad():
                flat = rows.detach().reshape(-1, rows.shape[-1]).to(operand.root.like.dtype)
                if len(flat) > flat.shape[1]:
                    return None
                self._last = rows.detach(), rows._version, Span.of(flat)
        return self._last[2]

    def read(self, tree: Any) -> Any:
        """``tree`` with each random weight replaced by a tensor of its shape, precision and device that takes no memory."""

        def stand_in(tensor: Tensor) -> Tensor:
            found = self.find(tensor)
            return (
                torch.zeros((), dtype=found[0].dtype, device=found[0].device).expand(found[1].shape)
                if found
                else tensor
            )

        return tree_map_only(Tensor, stand_in, tree)

    def described(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call that reads no entry of a random weight."""
        return func(*self.read(args), **self.read(kwargs))

    def with_drawn(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call with its random weights drawn; what autograd would save of them is drawn again in the backward pass.

        Raises:
            ValueError: the call would change a random weight.
        """
        name = getattr(func, "__name__", "")
        if args and self.find(args[0]) and (name == "__setitem__" or name.rstrip("_") + "_" == name):
            shape = tuple(args[0].shape)
            raise UnknownLawError(
                f"{name} changes a random weight of shape {shape} in place: initialize the model first, then run it"
            )
        drawn: dict[int, tuple[Root, Tensor, int]] = {}

        def draw(tensor: Tensor) -> Tensor:
            found = self.find(tensor)
            if not found:
                return tensor
            real = found[0].real(found[1])
            drawn[real.untyped_storage()._cdata] = (*found, int(real.storage_offset()))
            return real

        def pack(saved: Tensor) -> Any:
            origin = drawn.get(saved.untyped_storage()._cdata)
            return saved if origin is None else (*origin[:2], saved.shape, saved.stride(), saved.storage_offset())

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            root, view, shape, stride, offset = packed
            with torch._C.DisableTorchFunction():
                return root.real(view).as_strided(shape, stride, offset)

        args, kwargs = tree_map_only(Tensor, draw, (args, kwargs))
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return func(*args, **kwargs)

    def _add(self, weight: Tensor, law: Law) -> Root:
        copied = self._copies.original(weight, law)
        root = Root(weight, law, (self.seed, self.generation, len(self._roots)), copied)
        if copied is None:
            self._copies.add(weight, law, root)
        self._roots[id(weight)] = root
        self._memories[root.shadow.untyped_storage()._cdata] = root
        return root


_OF_THE_GRAPH = frozenset(getters("grad_fn", "output_nr", "_version"))
"""Attributes that say the same of a random weight as of a tensor of numbers; recordings ask for them at every call."""


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same entries of the same memory."""
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )
