"""How each operation is played on random weights: a table from aten operations to rules.

A rule returns ``NotImplemented`` when samples cannot say the result. What has no rule, or none that can, is computed really: the
weights are drawn, once, and stay what was drawn, so that the result is exactly what the model would have got from one of
its initializations; no rule ever guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from criticality.errors import UnknownLawError
from criticality.weightless.creation import CREATIONS, created
from criticality.weightless.entries import Entries, corrected, player
from criticality.weightless.storage import Geometry, Piece, aligned, independent
from criticality.weightless.weight import RandomWeight

Rule = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

RULES: dict[str, Rule] = {}
"""Name of an aten operation, without its overload, -> how it is played."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operations of a family."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def play(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Play one operation on random weights, or compute it really.

    Raises:
        UnknownLawError: the operation needs numbers that may not be drawn; the message names it.
    """
    found = RULES.get(func.overloadpacket.__name__)
    if func.overloadpacket.__name__.startswith("_foreach_"):
        return one_by_one(func, args, kwargs)
    if found is None and torch.Tag.pointwise in func.tags and len(func._schema.returns) == 1:
        found = pointwise
    result = NotImplemented if found is None or kwargs.get("out") is not None else found(func, args, kwargs)
    return really(func, args, kwargs) if result is NotImplemented else result


def one_by_one(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation on lists of tensors, as averages of weights take it: of their first entries, of their second, and so on."""
    single = getattr(torch.ops.aten, func.overloadpacket.__name__.removeprefix("_foreach_"))
    of = [[a[number] if isinstance(a, (list, tuple)) else a for a in args] for number in range(len(args[0]))]
    found = [single(*given, **kwargs) for given in of]
    return found if func._schema.returns else None


def really(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Draw the weights and compute with their numbers; what is changed in place is changed in the weight."""
    weights: dict[int, RandomWeight] = {}

    def numbers(weight: RandomWeight) -> Tensor:
        real = weight.numbers(str(func))
        weights[id(real)] = weight
        return real

    args, kwargs = tree_map_only(RandomWeight, numbers, (args, kwargs))
    return tree_map_only(Tensor, lambda out: weights.get(id(out), out), func(*args, **kwargs))


# Views: same memory, other geometry.


@rule("view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "select", "slice", "unsqueeze", "squeeze")
@rule("expand", "as_strided", "split", "split_with_sizes", "chunk", "unbind", "unfold", "alias", "detach", "narrow")
@rule("swapaxes", "movedim", "lift_fresh")
def view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    weight: RandomWeight = args[0]
    if func.overloadpacket.__name__ == "view" and func._overloadname == "dtype":
        return NotImplemented
    memory = torch.empty(weight.memory.numel, dtype=weight.dtype, device="meta")
    out = func(memory.as_strided(*weight.geometry), *args[1:], **kwargs)
    return tree_map_only(Tensor, lambda t: RandomWeight(weight.memory, Geometry.of(t), weight.dtype), out)


@rule("t_", "transpose_", "squeeze_", "unsqueeze_", "detach_", "as_strided_")
def change_geometry(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with no_dispatch():  # only the metadata that the weight claims
        func(*args, **kwargs)
    return args[0]


@rule("resize_", "resize_as_")
def refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Other memory under the same tensor: the weight has none to give away."""
    raise UnknownLawError(f"{func} is not possible on a weight that is known by its law only; allocate it anew")


@rule("set_")
def set_memory(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``weight.set_(other)``, as parametrizations do it: from now on both are the same memory."""
    if len(args) != 2 or kwargs:
        return refuse(func, args, kwargs)
    weight, other = args
    if not isinstance(weight, RandomWeight):
        return NotImplemented
    other = other if isinstance(other, RandomWeight) else RandomWeight.of_real(other)
    if (weight.geometry, weight.dtype) != (other.geometry, other.dtype):
        return refuse(func, args, kwargs)
    weight.memory = other.memory
    return weight


# Elementwise.

_LINEAR = ("mul", "div", "neg", "mul_", "div_", "neg_", "true_divide")


@rule("masked_fill", "masked_fill_")
def pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Everything that PyTorch tags as pointwise: of weights of one shape and numbers."""
    name = func.overloadpacket.__name__
    place = name.endswith("_") and not name.endswith("__")
    if place and not isinstance(args[0], RandomWeight):
        return NotImplemented
    operands = [a for a in args if isinstance(a, RandomWeight)]
    if len(operands) == 1 and name in _LINEAR and (signed := _signs(operands[0], args)) is not None:
        return operands[0] if place else signed
    numbers = [
        a.item() if isinstance(a, Tensor) and not isinstance(a, RandomWeight) and a.numel() == 1 else a for a in args
    ]
    if any(isinstance(a, Tensor) and not isinstance(a, RandomWeight) for a in numbers) or _has_tensors(kwargs):
        return NotImplemented
    shape = operands[0].shape if operands else None
    read = [a.pieces() for a in operands]
    if any(a.shape != shape for a in operands) or any(pieces is None for pieces in read):
        return NotImplemented
    if any(p.entries.matrix for pieces in read for p in pieces or ()) and not (name in _LINEAR and len(operands) == 1):
        return NotImplemented
    result = _elementwise(func, numbers, kwargs, read, place)
    if not place:
        return _made(func, args, kwargs, result, operands[0].device)
    return args[0] if args[0].memory.write(args[0].geometry, result) else NotImplemented


def _elementwise(func: Any, numbers: list[Any], kwargs: dict[str, Any], read: list[Any], place: bool) -> list[Piece]:
    weights = [isinstance(a, RandomWeight) for a in numbers]
    others = tuple(repr(a) for a, is_weight in zip(numbers, weights, strict=True) if not is_weight)

    def play_on(*values: Tensor) -> Tensor:
        wide = torch.broadcast_tensors(*(v if v.dtype == torch.bool else v.double() for v in values))
        left = iter([v.clone() if place else v for v in wide])
        return func(*(next(left) if is_weight else a for a, is_weight in zip(numbers, weights, strict=True)), **kwargs)

    result = []
    for length, entries in aligned(read):
        key = (str(func), others, repr(kwargs), tuple(weights))
        played = player().apply(play_on, entries, key)
        matrix = next((e.matrix for e in entries if e.matrix), None)
        result.append(Piece(length, replace(played, matrix=matrix)))
    return result


def _signs(weight: RandomWeight, args: tuple[Any, ...]) -> RandomWeight | None:
    """An orthogonal matrix times a sign for each row or column is again a uniformly distributed one."""
    factors = [a for a in args if isinstance(a, Tensor) and a is not weight]
    pieces = weight.pieces()
    if len(factors) != 1 or factors[0].numel() == 1 or not pieces or not all(p.entries.matrix for p in pieces):
        return None
    factor = factors[0]
    if isinstance(factor, RandomWeight) or factor.numel() not in weight.shape or not bool((factor.abs() == 1).all()):
        return None
    return RandomWeight.from_pieces(pieces, weight.shape, dtype=weight.dtype, device=weight.device)


def _has_tensors(values: dict[str, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values.values())


def _made(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], pieces: list[Piece], device: torch.device
) -> RandomWeight:
    """A new weight; its shape and dtype are what the operation gives on the meta device."""
    args, kwargs = tree_map_only(Tensor, as_meta, (args, kwargs))
    out = func(*args, **kwargs)
    return RandomWeight.from_pieces(pieces, out.shape, dtype=out.dtype, device=device, stride=out.stride())


def as_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and dtype without memory; numbers stay numbers."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


# Copies.


@rule("clone", "contiguous")
def clone(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    pieces = args[0].pieces()
    return NotImplemented if pieces is None else _made(func, args, kwargs, pieces, args[0].device)


@rule("_to_copy")
def to_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another dtype or device; rounding is not played."""
    weight: RandomWeight = args[0]
    device = torch.device(kwargs.get("device") or weight.device)
    without = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory", "non_blocking")}
    if device.type == "meta":
        return func(as_meta(weight), **without)
    pieces = weight.pieces()
    if pieces is None:
        return NotImplemented
    dtype = kwargs.get("dtype") or weight.dtype
    if not dtype.is_floating_point:
        pieces = [Piece(n, replace(e, values=e.values.to(dtype), matrix=None)) for n, e in pieces]
    return _made(func, args, without, pieces, device)


@rule("copy_")
def copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    if not isinstance(target, RandomWeight):
        return NotImplemented
    if not isinstance(source, RandomWeight):
        return fill(func, (target, source), {}) if source.numel() == 1 else NotImplemented
    pieces = source.pieces() if source.shape == target.shape else None
    if pieces is None or source.is_floating_point() != target.is_floating_point():
        return NotImplemented
    return target if target.memory.write(target.geometry, pieces) else NotImplemented


# Draws and constants.

_DRAWS = {
    "normal_": ("normal", ("mean", "std")),
    "uniform_": ("uniform", ("from", "to")),
    "exponential_": ("exponential", ("lambd",)),
    "log_normal_": ("log_normal", ("mean", "std")),
    "bernoulli_": ("bernoulli", ("p",)),
}


@rule(*_DRAWS)
def draw(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    weight: RandomWeight = args[0]
    name, parameters = _DRAWS[func.overloadpacket.__name__]
    given = list(args[1:])
    for parameter in parameters[len(given) :]:
        if parameter not in kwargs:
            break
        given.append(kwargs[parameter])
    if any(isinstance(value, Tensor) for value in given) or any(p in kwargs for p in parameters[len(given) :]):
        return NotImplemented
    pieces = [Piece(weight.numel(), player().draw(name, *given))]
    return weight if weight.memory.write(weight.geometry, pieces) else NotImplemented


@contextmanager
def truncated_normals() -> Iterator[None]:
    """Torch's own truncated normal, which rejects entries, is drawn from its law: in a sample, rejection leaves noise."""
    original = nn.init._no_grad_trunc_normal_

    def drawn(tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None) -> Tensor:
        if not isinstance(tensor, RandomWeight):
            return original(tensor, mean, std, a, b, generator)
        pieces = [Piece(tensor.numel(), player().draw("truncated_normal", mean, std, a, b))]
        written = tensor.memory.write(tensor.geometry, pieces)
        return tensor if written else original(tensor, mean, std, a, b, generator)

    nn.init._no_grad_trunc_normal_ = drawn
    try:
        yield
    finally:
        nn.init._no_grad_trunc_normal_ = original


@rule("erfinv", "erfinv_")
def normal_from_uniform(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of uniform entries ``sqrt(1/2)`` times those of a truncated normal law, with its moments."""
    pieces = args[0].pieces()
    if pieces is None or len(pieces) != 1:
        return pointwise(func, args, kwargs)
    ends = player().once(_ends_if_uniform, pieces[0].entries)
    if ends is None:
        return pointwise(func, args, kwargs)
    low, high = torch.special.ndtri((ends + 1) / 2).tolist()

    def normal(values: Tensor) -> Tensor:
        return corrected(torch.special.ndtri((values + 1) / 2), low, high) * 0.5**0.5

    result = [Piece(pieces[0].length, player().apply(normal, [pieces[0].entries], "erfinv of uniform"))]
    if not func.overloadpacket.__name__.endswith("_"):
        return _made(func, args, kwargs, result, args[0].device)
    return args[0] if args[0].memory.write(args[0].geometry, result) else NotImplemented


def _ends_if_uniform(entries: Entries) -> Tensor | None:
    """Bounds of entries that lie between -1 and 1 in equal steps."""
    if entries.constant:
        return None
    steps = entries.values.double().sort().values
    step = (steps[-1] - steps[0]) / (len(steps) - 1)
    even = steps[0] + step * torch.arange(len(steps), dtype=torch.float64, device="cpu")
    ends = torch.stack([steps[0] - step / 2, steps[-1] + step / 2])
    if float(step) <= 0 or float(ends.abs().max()) > 1 + 1e-9 or float((steps - even).abs().max()) > 1e-6 * float(step):
        return None
    return ends.clamp(-1.0, 1.0)


@rule("normal")
def draw_around(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.normal`` of tensors: the mean, the spread or both."""
    mean, std = args[:2]
    noise = torch.randn_like(mean if isinstance(mean, RandomWeight) else std)
    return mean + std * noise


@rule("bernoulli")
def draw_with_probability(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (torch.rand_like(args[0]) < args[0]).to(args[0].dtype) if len(args) == 1 else NotImplemented


@rule("fill_", "zero_")
def fill(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    weight = args[0]
    value = args[1] if len(args) > 1 else 0.0
    if not isinstance(weight, RandomWeight):
        return NotImplemented
    pieces = [Piece(weight.numel(), player().draw("constant", float(value)))]
    return weight if weight.memory.write(weight.geometry, pieces) else NotImplemented


@rule(*(name for name in CREATIONS if name.startswith("new_") or name.endswith("_like")))
def create(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return created(func, args, kwargs)


# Whole weights.


@rule("any", "all")
def over_sample(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Over the sample, so that a loop that rejects entries ends when those of the sample are right."""
    pieces = args[0].pieces() if len(args) == 1 and not kwargs else None
    if pieces is None:
        return NotImplemented
    found = torch.stack([func(entries.values) for _, entries in pieces])
    return func(found).to(args[0].device)


@rule("_local_scalar_dense", "item")
def item(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of a constant, its value; one entry of a random weight is a number that must be drawn."""
    pieces = args[0].pieces()
    constant = pieces is not None and len(pieces) == 1 and pieces[0].entries.constant
    return func(pieces[0].entries.values) if constant else NotImplemented


@rule("cat", "concat", "stack")
def join(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Along the first axis one weight follows the other in memory."""
    tensors = args[0]
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if axis != 0 or not all(isinstance(t, RandomWeight) and t.dtype == tensors[0].dtype for t in tensors):
        return NotImplemented
    read = [t.pieces() for t in tensors]
    if any(pieces is None for pieces in read):
        return NotImplemented
    if not independent(*(pieces or () for pieces in read)):
        return NotImplemented
    return _made(func, args, kwargs, [piece for pieces in read for piece in pieces or ()], tensors[0].device)
