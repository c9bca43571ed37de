"""Norms: the functions that torch has, and what writes them out: means of squares, roots, quotients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.entrywise import Entrywise, is_power
from criticality.reader.rules.table import number_of, numbers_of, rule
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import (
    Applied,
    Centred,
    Moment,
    Normalized,
    Part,
    Seen,
    Term,
    applied,
    closed,
    composed,
    counted,
    is_plain,
    root_of,
    same_entries,
    tokens_of,
)


@rule("layer_norm")
def layer_norm(
    reader: Any,
    operation: Operation,
    x: Seen,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Seen:
    return _gained(reader, normalized(x, shape, float(eps), True), weight, bias)


@rule("rms_norm")
def rms_norm(
    reader: Any, operation: Operation, x: Seen, shape: Any, weight: Any = None, eps: float | None = None
) -> Seen:
    given = operation.args[0]
    kind = given.tensor.dtype if isinstance(given, Value) else torch.get_default_dtype()
    return _gained(
        reader, normalized(x, shape, torch.finfo(kind).eps if eps is None else float(eps), False), weight, None
    )


def normalized(x: Seen, shape: Any, epsilon: float, centred: bool) -> Seen:
    """A norm over the last axis."""
    if len(tuple(shape)) != 1:
        raise UndescribedError(f"a norm must act on one axis, and acts on {tuple(shape)}")
    factor, inner = closed(x)
    tokens_of(inner)
    group = x.shape[-1]
    base = inner.base
    if factor != 1.0:
        epsilon = epsilon / factor**2 if factor else math.inf
    term = Normalized(base.rows, base.channels, base, epsilon, centred, group)
    return Seen(term, (Part(inner.parts[0].index),))


def _gained(reader: Any, x: Seen, weight: Any, bias: Any) -> Seen:
    found = x if weight is None else x.times(numbers_of(reader, weight))
    return found if bias is None else with_bias(found, numbers_of(reader, bias))


def with_bias(x: Seen, bias: float | Tensor) -> Seen:
    """A norm, or a function in its place, with something added to each channel."""
    size = abs(bias) if isinstance(bias, float) else float(bias.double().square().mean().sqrt())
    if size == 0.0:
        return x
    factor, inner = closed(x)
    base = inner.base
    if factor != 1.0 or not isinstance(base, (Normalized, Applied)) or base.beta != 0.0:
        raise UndescribedError("a vector must be added to a projection or to a norm, and is added to something else")
    return Seen(replace(base, beta=size), inner.parts)


@rule("mean")
def mean(reader: Any, operation: Operation, x: Seen, dim: Any = None, keepdim: bool = False, **_: Any) -> Seen:
    return _moment(x, dim, keepdim, 1.0)


@rule("sum")
def total(reader: Any, operation: Operation, x: Seen, dim: Any = None, keepdim: bool = False, **_: Any) -> Seen:
    return _moment(x, dim, keepdim, float(x.shape[-1]))


def _moment(x: Seen, dim: Any, keepdim: bool, factor: float) -> Seen:
    dims = tuple(dim) if isinstance(dim, Sequence) else (dim,)
    if dims not in ((-1,), (len(x.shape) - 1,)):
        raise UndescribedError("a mean must be over the channels of each token, and is over others")
    root, function = root_of(x)
    if isinstance(root, Moment):
        raise UndescribedError("a mean must be over the channels of each token, and is of a mean")
    of = Seen(root, (Part(x.parts[0].index),))
    for power in (1, 2):
        scale = is_power(function, power)
        if scale is not None:
            return _number(of, power, scale * factor, keepdim)
    raise UndescribedError("a mean must be of entries or of their squares, and is of another function of them")


def _number(of: Seen, power: int, factor: float, keepdim: bool) -> Seen:
    tokens_of(of)
    groups = of.shape[:-1].numel()
    term = Moment(groups, 1, of, power, factor, of.shape[-1])
    return Seen(term, (Part(counted(groups).reshape(*of.shape[:-1], *((1,) if keepdim else ()))),))


@rule("norm", "vector_norm", "linalg_norm", "linalg_vector_norm")
def size(
    reader: Any, operation: Operation, x: Seen, p: Any = 2, dim: Any = None, keepdim: bool = False, **options: Any
) -> Seen:
    if p not in (2, 2.0, "fro", None) or options.get("ord", 2) not in (2, 2.0):
        raise UndescribedError(f"a norm must be of second order, and is of order {p!r}")
    of = x.times(1.0)
    root, function = root_of(of)
    scale = is_power(function, 1)
    if scale is None:
        raise UndescribedError("a size must be of channels, and is of a function of them")
    found = _moment(applied(of, root, function.then(torch.square, None)), dim, keepdim, float(x.shape[-1]))
    return composed(found, torch.sqrt)


@rule("var")
def variance(reader: Any, operation: Operation, x: Seen, dim: Any = None, *args: Any, **options: Any) -> Seen:
    keepdim = bool(options.get("keepdim", False))
    corrected = options.get("unbiased", args[0] if args else True)
    correction = options.get("correction", 1 if corrected else 0)
    scale, inner = closed(x)
    group = x.shape[-1]
    base = Centred(inner.base.rows, inner.base.channels, inner.base, group)
    of = Seen(base, (Part(inner.parts[0].index),))
    squares = applied(of, base, Entrywise().affine(scale).then(torch.square, None))
    return _moment(squares, dim, keepdim, group / (group - float(1 if correction is None else correction)))


@rule("std")
def deviation(reader: Any, operation: Operation, *args: Any, **options: Any) -> Seen:
    return composed(variance(reader, operation, *args, **options), torch.sqrt)


@rule("var_mean")
def variance_and_mean(reader: Any, operation: Operation, x: Seen, dim: Any = None, **options: Any) -> tuple[Seen, Seen]:
    return variance(reader, operation, x, dim, **options), mean(
        reader, operation, x, dim, bool(options.get("keepdim", False))
    )


def centred(x: Seen, taken: Seen) -> Seen | None:
    """``x`` minus the mean of its own channels; ``None`` when something else is taken away."""
    root, function = root_of(taken)
    if not isinstance(root, Moment) or root.power != 1:
        return None
    own, scale = root_of(x)
    of, factor, taken_by = root.of, is_power(scale, 1), is_power(function, 1)
    if own is not of.base or not same_entries(x, of) or factor is None or taken_by is None:
        return None
    if not math.isclose(factor, taken_by * root.factor, rel_tol=1e-9):
        return None
    base = Centred(own.rows, own.channels, own, root.group)
    return Seen(base, x.parts)


def over_its_size(x: Seen, other: Seen, reciprocal: bool) -> Seen | None:
    """``x`` times a function of the mean square of its own channels, or over it; ``None`` when that is no norm.

    The function must be ``s / sqrt(v + epsilon)``.
    """
    root, function = root_of(other)
    if not isinstance(root, Moment) or root.power != 2:
        return None
    own, scale = root_of(x)
    if not _same_field(own, root.of.base) or not same_entries(x, root.of):
        return None
    factor = is_power(scale, 1)
    if factor is None or not is_plain(Seen(root, other.parts)):
        return None
    variances = torch.tensor([0.0, 1e-3, 0.1, 1.0, 7.0, 1e4], dtype=torch.float64)
    values = function(root.factor * variances)
    values = 1 / values if reciprocal else values
    size = float(values[-1] * variances[-1].sqrt())
    epsilon = (size / float(values[0])) ** 2 if math.isfinite(float(values[0])) else 0.0
    for _ in range(3):
        size = float(values[-1] * (variances[-1] + epsilon).sqrt())
        epsilon = (size / float(values[0])) ** 2 if math.isfinite(float(values[0])) else 0.0
    if not torch.allclose(values[1:] * (variances[1:] + epsilon).sqrt(), torch.tensor(size).double(), rtol=1e-5):
        return None
    inner, takes_mean = (own.inner, True) if isinstance(own, Centred) else (own, False)
    term = Normalized(inner.rows, inner.channels, inner, _rounded(epsilon), takes_mean, root.group)
    gain = factor * size
    return Seen(term, (Part(x.parts[0].index),)).times(1.0 if math.isclose(gain, 1.0, rel_tol=1e-9) else gain)


def _same_field(one: Term, other: Term) -> bool:
    if isinstance(one, Centred) and isinstance(other, Centred):
        return one.inner is other.inner and one.group == other.group
    return one is other


def _rounded(epsilon: float) -> float:
    """The number that was meant: one with few digits."""
    if epsilon < 1e-20:
        return 0.0
    short = float(f"{epsilon:.6g}")
    return short if math.isclose(short, epsilon, rel_tol=1e-9) else epsilon


@rule("normalize")
def normalize(
    reader: Any, operation: Operation, x: Seen, p: Any = 2.0, dim: int = -1, eps: float = 1e-12, **_: Any
) -> Seen:
    norm = size(reader, operation, x, p, dim, True)
    least = number_of(reader, eps)
    if least is None:
        raise UndescribedError("normalize must have a least size that is one number, and has not")
    found = over_its_size(x, composed(norm, lambda v: v.clamp_min(least)), True)
    if found is None:
        raise UndescribedError("normalize must act on the channels of each token, and does not")
    return found
