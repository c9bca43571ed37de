"""From fields to the theory's branches and sub-layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.pointwise import Pointwise
from criticality.reader.entrywise import identified
from criticality.reader.rotation import Side, rotary, side
from criticality.reader.rules.attention import seen_tokens
from criticality.reader.terms import (
    Applied,
    Gated,
    Mixed,
    Normalized,
    Projected,
    Seen,
    Stream,
    Sum,
    Term,
    closed,
    is_plain,
    rows_of,
)
from criticality.theory import (
    MLP,
    Attention,
    GatedMLP,
    HeadNorm,
    LayerNorm,
    Linear,
    NoNorm,
    Normed,
    Parallel,
    PointwiseNorm,
    RMSNorm,
    Sublayer,
)
from criticality.theory.branches import Branch
from criticality.theory.norms import Norm


@dataclass(frozen=True)
class Path:
    """A branch with what is around it: ``factor output_norm(branch(norm(x)))``."""

    factor: float
    norm: Norm
    stem: Term
    branch: Branch
    output_norm: Norm


def sublayer(seen: Seen, samples: int) -> Sublayer:
    """The sub-layer whose end a value is, read as fields from the stream at its beginning.

    Args:
        samples: of the batch.

    Raises:
        UndescribedError: what the theory has no name for.
    """
    factor, inner = closed(seen)
    if not is_plain(inner):
        raise UndescribedError("the stream must keep the order of its tokens and channels, and does not")
    term = inner.base
    after: Norm = NoNorm()
    if not isinstance(term, Sum) and isinstance(term, (Normalized, Applied)) and isinstance(term.inner, Sum):
        after, term = norm_of(term), term.inner
    if not isinstance(term, Sum):
        raise UndescribedError("a branch must be added to the stream, and nothing is")
    if factor != 1.0 and not isinstance(after, NoNorm):
        raise UndescribedError("a norm of the stream must not be scaled afterwards, and is")
    parts = [(factor * one, part) for one, part in term.parts]
    skips = [one for one, part in parts if isinstance(part, Stream)]
    paths = [_path(one, part, samples) for one, part in parts if not isinstance(part, Stream)]
    if len(skips) != 1 or not paths:
        raise UndescribedError("branches must be added to the stream itself, and are added to something else")
    return _assembled(skips[0], paths, after)


def _assembled(skip: float, paths: list[Path], after: Norm) -> Sublayer:
    first = paths[0]
    plain = all(isinstance(path.output_norm, NoNorm) for path in paths)
    if len(paths) > 1:
        if not plain:
            raise UndescribedError(
                "parallel branches must have no norm at their end for the exact theory, and have one"
            )
        branches = tuple(_scaled(path.branch, path.factor) for path in paths)
        if all(path.stem is first.stem for path in paths):
            first = Path(1.0, first.norm, first.stem, Parallel(branches), NoNorm())
        else:
            normed = tuple(Normed(path.norm, one) for path, one in zip(paths, branches, strict=True))
            first = Path(1.0, NoNorm(), first.stem, Parallel(normed), NoNorm())
    if isinstance(after, NoNorm) and skip == 1.0:
        if isinstance(first.output_norm, NoNorm):
            return Sublayer(first.branch, first.norm, first.factor)
        return Sublayer(first.branch, first.norm, first.factor, "sandwich", first.output_norm)
    if not isinstance(first.output_norm, NoNorm):
        raise UndescribedError(
            "a branch with a norm at its end must join an unscaled stream without a norm, and does not"
        )
    branch = first.branch if isinstance(first.norm, NoNorm) else Normed(first.norm, first.branch)
    return Sublayer(branch, after, first.factor, "post", skip_scale=skip)


def _scaled(branch: Branch, factor: float) -> Branch:
    """A branch whose output is scaled."""
    if factor == 1.0:
        return branch
    if isinstance(branch, Linear):
        return branch.scaled(factor)
    last = "output" if isinstance(branch, Attention) else "down"
    return replace(branch, **{last: getattr(branch, last).scaled(factor)})  # type: ignore[type-var]


def norm_of(term: Term) -> Norm:
    """A norm of the stream.

    Raises:
        UndescribedError: groups of channels, or a function that is no norm.
    """
    if isinstance(term, Normalized):
        if term.group != term.channels:
            raise UndescribedError(
                f"a norm must act on all {term.channels} channels of the stream, and acts on {term.group}"
            )
        return (LayerNorm if term.centred else RMSNorm)(term.epsilon, abs(term.gamma), abs(term.beta))
    if isinstance(term, Applied):
        return PointwiseNorm(_pointwise(term))
    return NoNorm()


def _pointwise(term: Applied) -> Pointwise:
    found = identified(term.function)
    gamma = found.gamma * term.gamma
    if term.beta and found.beta:
        raise UndescribedError("a function must have one bias, and has two")
    return replace(found, gamma=gamma, beta=found.beta * term.gamma + term.beta)


def _path(factor: float, term: Term, samples: int) -> Path:
    output_norm: Norm = NoNorm()
    if isinstance(term, (Normalized, Applied)) and not isinstance(term.inner, Stream):
        output_norm, term = norm_of(term), term.inner
    if not isinstance(term, Projected):
        raise UndescribedError(f"a branch must end with a projection, and ends with {_named(term)}")
    branch, stem = _branch(term, samples)
    norm = NoNorm() if isinstance(stem, Stream) else norm_of(stem)
    return Path(factor, norm, stem, branch, output_norm)


def _named(term: Term) -> str:
    names = {
        "Applied": "a function",
        "Normalized": "a norm",
        "Mixed": "attention",
        "Gated": "a product",
        "Stream": "the stream",
    }
    return names.get(type(term).__name__, "something else")


def _is_stem(term: Term) -> bool:
    """The stream, or the norm before a branch."""
    return isinstance(term, Stream) or (isinstance(term, (Normalized, Applied)) and isinstance(term.inner, Stream))


def _branch(output: Projected, samples: int) -> tuple[Branch, Term]:
    hidden = output.inner
    last = _linear(output)
    if _is_stem(hidden):
        return last, hidden
    if isinstance(hidden, Applied) and isinstance(hidden.inner, Projected):
        inner = hidden.inner
        ratio = output.weight.fan_in / inner.weight.fan_in
        return MLP(_pointwise(hidden), _linear(inner), last, ratio), _stem(inner)
    if isinstance(hidden, Gated):
        return _gated(hidden, output.weight.fan_in, last)
    if isinstance(hidden, Mixed):
        return _attention(hidden, last, samples)
    raise UndescribedError(f"the exact theory describes no branch of a projection after {_named(hidden)}")


def _stem(projection: Projected) -> Term:
    if not _is_stem(projection.inner):
        raise UndescribedError(
            f"a branch must begin at the stream or its norm, and has {_named(projection.inner)} in between"
        )
    return projection.inner


def _linear(projection: Projected, channels: Tensor | None = None) -> Linear:
    """Some channels of a projection, or all."""
    biases = sum((bias.variance(channels) for bias in projection.bias), 0.0)
    return Linear(projection.weight.variance(channels), biases)


def _gated(hidden: Gated, width: int, down: Linear) -> tuple[Branch, Term]:
    sides = []
    for seen in (hidden.left, hidden.right):
        factor, inner = closed(seen)
        _, channels = rows_of(inner)
        base = inner.base
        function = base if isinstance(base, Applied) else None
        projection = base.inner if isinstance(base, Applied) else base
        if not isinstance(projection, Projected):
            raise UndescribedError(f"a gate must be a product of two projections, and is one of {_named(base)}")
        sides.append((factor, function, projection, channels))
    sides.sort(key=lambda one: one[1] is None)
    (gate_factor, gate_function, gate, gate_channels), (up_factor, up_function, up, up_channels) = sides
    if up_function is not None:
        raise UndescribedError("a gate must have an activation on one side, and has one on both")
    if gate is up and bool(torch.isin(gate_channels, up_channels).any()):
        raise UndescribedError("the two sides of a gate must be channels of their own, and share some")
    activation = Pointwise("identity") if gate_function is None else _pointwise(gate_function)
    if gate_factor != 1.0:
        activation = replace(activation, gamma=activation.gamma * gate_factor, beta=activation.beta * gate_factor)
    stem = _stem(gate)
    if _stem(up) is not stem:
        raise UndescribedError("the two sides of a gate must begin at the same norm, and begin at two")
    gates, ups = _linear(gate, gate_channels), _linear(up, up_channels).scaled(up_factor)
    return GatedMLP(activation, gates, ups, down, width / gate.weight.fan_in), stem


def _attention(mixed: Mixed, output: Linear, samples: int) -> tuple[Branch, Term]:
    scores = mixed.scores
    queries, keys = side(scores.query), side(scores.key)
    factor, value = closed(mixed.value)
    values = side(value)
    length = mixed.rows // samples
    if not (
        _in_order(queries, samples, length) and _in_order(keys, samples, length) and _in_order(values, samples, length)
    ):
        raise UndescribedError(
            "each token must attend to the tokens of its sample in their order, and attends to others"
        )
    causal, window = seen_tokens(scores.allowed, length)
    found = [_projected_side(scores.query, queries), _projected_side(scores.key, keys), _projected_side(value, values)]
    (query, query_norm, query_stem), (key, key_norm, key_stem), (carried, value_norm, value_stem) = found
    if value_norm is not None:
        raise UndescribedError("values of attention must be a projection as it is, and are normalized")
    if not query_stem is key_stem is value_stem:
        raise UndescribedError("queries, keys and values must come from the same norm of the stream, and do not")
    turned = rotary(queries.angles, keys.angles)
    width = queries.width
    return (
        Attention(
            query,
            key,
            carried.scaled(factor),
            output,
            heads=queries.heads,
            head_dim=width,
            key_value_heads=keys.heads if keys.heads != queries.heads else None,
            causal=causal,
            window=window,
            rotary=turned,
            query_norm=query_norm,
            key_norm=key_norm,
            score_scale=scores.scale * queries.scale * keys.scale * math.sqrt(width),
        ),
        query_stem,
    )


def _in_order(one: Side, samples: int, length: int) -> bool:
    expected = torch.arange(samples * length).reshape(samples, length)
    return one.tokens.shape == expected.shape and bool((one.tokens == expected).all())


def _projected_side(seen: Seen, read: Side) -> tuple[Linear, HeadNorm | None, Term]:
    base, norm = seen.base, None
    if isinstance(base, Normalized):
        if base.group != read.width or base.beta:
            what = "a bias" if base.beta else f"{base.group} channels in place of the {read.width} of a head"
            raise UndescribedError(f"a norm of queries and keys must act on one head, without a bias, and has {what}")
        norm, base = HeadNorm(base.epsilon, abs(base.gamma), base.centred), base.inner
    if not isinstance(base, Projected):
        raise UndescribedError(f"queries, keys and values must be projections, and one is {_named(base)}")
    return _linear(base, read.channels), norm, _stem(base)
