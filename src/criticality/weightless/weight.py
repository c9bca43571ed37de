"""A tensor that claims its shape, dtype and device, and holds the distribution of its entries instead of the entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from criticality.errors import UnknownLawError
from criticality.shapes import Float, Int
from criticality.weightless.drawing import draw_entries
from criticality.weightless.entries import Entries, player
from criticality.weightless.law import Law
from criticality.weightless.laws import law_of_pieces, measured_law
from criticality.weightless.storage import Geometry, Piece, Storage


class Region(NamedTuple):
    """Rows ``start`` to ``stop`` (along the first axis) of a weight, and what their entries are drawn from."""

    start: int
    stop: int
    law: Law


class RandomWeight(Tensor):
    """A random weight known by its law: it has a shape ``(rows, ...)``, a dtype and an ordinary device, and no memory but a
    sample of its entries, in double precision, on which every elementwise operation is played.

    In-place operations on a view change the weight that it is a view of, as always; parts that were initialized differently
    (the chunks of a fused weight, a padding row) keep laws of their own. Operations that cannot be played on a sample of the
    entries (products, reductions, sorting, reading single entries) draw the numbers once and compute really, inside
    ``build_without_weights`` and ``initialize``; elsewhere they raise ``UnknownLawError``, which names the operation.

    Copies (``clone``, ``deepcopy``) and pickles keep the law and forget that their entries equal those of the original.
    """

    memory: Storage
    upper: Tensor | None = None
    """Of the R of a QR decomposition, the absolute values on its diagonal."""

    @staticmethod
    def __new__(cls, memory: Storage, view: Geometry, dtype: torch.dtype | None = None) -> RandomWeight:
        weight: RandomWeight = Tensor._make_wrapper_subclass(
            cls,
            view.size,
            strides=view.stride,
            storage_offset=view.offset,
            dtype=dtype or memory.dtype,
            device=memory.device,
            requires_grad=False,
        )
        weight.memory = memory
        return weight

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    @classmethod
    def from_pieces(
        cls,
        pieces: list[Piece],
        size: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stride: Sequence[int] | None = None,
    ) -> RandomWeight:
        """A new weight of shape ``size`` whose entries, in row-major order, are those of ``pieces``."""
        contiguous = torch.empty(tuple(size), device="meta").stride()
        stride = contiguous if stride is None or len(pieces) > 1 or pieces[0].entries.matrix else tuple(stride)
        memory = Storage(math.prod(size), dtype, torch.device(device), pieces)
        return cls(memory, Geometry(tuple(size), stride, 0))

    @classmethod
    def of_real(cls, tensor: Tensor) -> RandomWeight:
        """A weight whose numbers are there; those of ``tensor`` itself where it is contiguous."""
        memory = Storage(tensor.numel(), tensor.dtype, tensor.device, [], tensor.detach().contiguous().flatten())
        return cls(memory, Geometry.of(torch.empty(tensor.shape, device="meta")))

    @property
    def geometry(self) -> Geometry:
        return Geometry.of(self)

    def pieces(self) -> list[Piece] | None:
        """Distributions of the entries in row-major order; ``None`` when they are real or their order is not consecutive."""
        return self.memory.read(self.geometry)

    @property
    def law(self) -> Law:
        """The law of all entries together. A constant part of less than a hundredth (a padding row) is left out.

        Of a weight whose parts differ it is the mixture; ``regions`` has the parts.
        """
        with _disable_current_modes():
            if self.memory.real is not None:
                return measured_law(self.numbers("law"))
            return law_of_pieces(self.pieces() or self.memory.pieces)

    @property
    def regions(self) -> list[Region]:
        """Laws of the rows, one entry per run of rows with one law.

        Raises:
            UnknownLawError: the numbers are real, or parts do not begin and end with a row.
        """
        pieces = self.pieces()
        row = self.numel() // len(self) if self.dim() and len(self) else 1
        if pieces is None or any(length % row for length, _ in pieces):
            raise UnknownLawError(
                f"laws of a weight of shape {tuple(self.shape)} change within a row or are not known: draw it"
            )
        found, start = [], 0
        for length, entries in pieces:
            found.append(Region(start, start + length // row, law_of_pieces([Piece(length, entries)])))
            start += length // row
        return found

    @torch.no_grad()
    def draw(
        self, generator: torch.Generator | None = None, *, rows: Int[Tensor, " r"] | Sequence[int] | None = None
    ) -> Float[Tensor, "..."]:
        """Real numbers from the law, in this dtype and on this device: ``(rows, ...)``.

        Every call draws anew; the weight stays what it is. Of an orthogonal law the whole matrix is a uniformly distributed
        orthogonal one as long as its smaller side is at most 2,048, otherwise its entries are independent.

        Args:
            generator: on any device; by default that of the library's player.
            rows: draw these rows of the first axis only, in this order, ``(r,)``; independent entries.

        Raises:
            UnknownLawError: parts of the weight have laws that do not begin and end with a row.
        """
        generator = generator or player().generator
        with _disable_current_modes():  # while building, allocations are no real tensors
            if self.memory.real is not None:
                real = self.numbers("draw")
                return real.clone() if rows is None else real[torch.as_tensor(rows, device=real.device)]
            return (
                self._draw_all(generator) if rows is None else self._draw_rows(generator, torch.as_tensor(rows).cpu())
            )

    def _draw_rows(self, generator: torch.Generator, index: Int[Tensor, " r"]) -> Tensor:
        out = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype, device=self.device)
        for start, stop, law in self.regions:
            here = ((index >= start) & (index < stop)).nonzero().flatten()
            part = torch.empty((len(here), *self.shape[1:]), dtype=self.dtype, device=self.device)
            draw_entries(Entries(law.sample), part.flatten(), generator)
            out[here.to(out.device)] = part
        return out

    def _draw_all(self, generator: torch.Generator) -> Tensor:
        pieces = self.pieces()
        if pieces is None:
            raise UnknownLawError(
                f"laws within a weight of shape {tuple(self.shape)} are not consecutive in this view of it"
            )
        out = torch.empty(self.numel(), dtype=self.dtype, device=self.device)
        for part, (_, entries) in zip(out.split([length for length, _ in pieces]), pieces, strict=True):
            draw_entries(entries, part, generator)
        return out.view(self.shape)

    def numbers(self, reason: str) -> Tensor:
        """The entries themselves, drawn once and shared with all views.

        Raises:
            UnknownLawError: not inside ``build_without_weights`` or ``initialize``, or too many; ``reason`` is what needs them.
        """
        with _disable_current_modes():
            return torch.as_strided(self.memory.materialize(reason), *self.geometry)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        if self.memory.real is not None:
            what = "drawn"
        else:
            law = self.law
            what = f"mean {law.mean:.3g}, std {math.sqrt(max(law.variance, 0.0)):.3g}" if law.known else "unknown law"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"RandomWeight(shape={tuple(self.shape)}, {what}, dtype={self.dtype}, device='{self.device}'{grad})"

    def copied(self) -> RandomWeight:
        """The same law in a memory of its own, with the attributes of this one."""
        pieces = self.pieces()
        if pieces is None:
            self.numbers("copy")
            memory = Storage(
                self.memory.numel, self.memory.dtype, self.device, [], self.memory.materialize("copy").clone()
            )
            copy = RandomWeight(memory, self.geometry, self.dtype)
        else:
            copy = RandomWeight.from_pieces(
                pieces, self.shape, dtype=self.dtype, device=self.device, stride=self.stride()
            )
        return _like(copy, self)

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomWeight:
        if id(self) not in memo:
            memo[id(self)] = self.copied()
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        copy = self.copied()
        attributes = {name: value for name, value in copy.__dict__.items() if name != "memory"}
        state = (copy.memory, copy.geometry, copy.dtype, self.requires_grad, attributes)
        return _rebuilt, state

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = _FUNCTIONS.get(func)
        if function is not None:
            return function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from criticality.weightless import orthogonal  # noqa: F401  (it fills the table of rules, which make weights)
        from criticality.weightless.playing import play

        return play(func, args, kwargs or {})


def _like(copy: RandomWeight, original: Tensor) -> RandomWeight:
    copy.__dict__.update({name: value for name, value in original.__dict__.items() if name != "memory"})
    return copy.requires_grad_(original.requires_grad)  # type: ignore[return-value]


def _rebuilt(
    memory: Storage, geometry: Geometry, dtype: torch.dtype, requires_grad: bool, attributes: dict[str, Any]
) -> RandomWeight:
    weight = RandomWeight(memory, geometry, dtype)
    weight.__dict__.update(attributes)
    return weight.requires_grad_(requires_grad)  # type: ignore[return-value]


def _set_data(weight: Tensor, value: Tensor) -> None:
    """``weight.data = value``: the memory of the value, too, becomes that of the weight."""
    if not isinstance(weight, RandomWeight):
        value = value.numbers("tensor.data = ") if isinstance(value, RandomWeight) else value
        with torch._C.DisableTorchFunctionSubclass():
            weight.data = value
        return
    value = value if isinstance(value, RandomWeight) else RandomWeight.of_real(value)
    with torch._C.DisableTorchFunctionSubclass():
        Tensor.data.__set__(weight, value)  # type: ignore[attr-defined]
    weight.memory = value.memory


def _really(method: Callable[..., Any]) -> Callable[..., Any]:
    def read(weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        numbers = weight.numbers(method.__name__) if isinstance(weight, RandomWeight) else weight
        return method(numbers, *args, **kwargs)

    return read


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    **{method: _really(method) for method in (Tensor.numpy, Tensor.tolist, Tensor.__array__)},
}
"""Methods that read or replace memory without passing the dispatcher."""
