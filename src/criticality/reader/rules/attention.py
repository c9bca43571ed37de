"""Scaled dot product attention, as one call or written out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.rules.arithmetic import masked_by, only
from criticality.reader.rules.table import number_of, numbers_of, rule
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import Mixed, Part, Scores, Seen, channels_of


def product(first: Any, second: Any) -> Any:
    """The product of two values: scores of queries and keys, or weights of attention times values.

    Raises:
        UndescribedError: any other one.
    """
    if isinstance(first, Scores) and isinstance(second, Seen):
        return _mixed(first, second)
    if isinstance(first, Seen) and isinstance(second, Seen):
        query, key = _heads(first, second.viewed(lambda one: one.transpose(-1, -2)))
        return Scores(query, key)
    raise UndescribedError(
        "a product of values must be queries times keys, or weights of attention times values, and is neither"
    )


def _heads(*seen: Seen) -> tuple[Seen, ...]:
    """With as many heads each."""
    lead = torch.broadcast_shapes(*(one.shape[:-2] for one in seen))
    return tuple(
        one if one.shape[:-2] == lead else one.viewed(lambda tensor: tensor.expand(*lead, *tensor.shape[-2:]))
        for one in seen
    )


def _mixed(scores: Scores, value: Seen) -> Seen:
    if not scores.weights:
        raise UndescribedError("scores of attention must go through a softmax before they meet the values, and do not")
    query, key, value = _heads(scores.query, scores.key, value)
    lead, length, width = query.shape[:-2], query.shape[-2], value.shape[-1]
    tokens = (query.parts[0].index[..., 0] // query.base.channels).reshape(-1, length)
    seen: dict[bytes, int] = {}
    heads = []
    for row in tokens:
        key_of = row.numpy().tobytes()
        heads.append(seen.get(key_of, 0))
        seen[key_of] = heads[-1] + 1
    if len(set(seen.values())) != 1:
        raise UndescribedError("every sample must have the same number of heads of attention, and some have others")
    count = max(heads) + 1
    term = Mixed(query.base.rows, count * width, replace(scores, query=query, key=key), value)
    of_head = tokens * count + torch.tensor(heads)[:, None]
    index = channels_of(of_head, term.rows * count, width)
    return Seen(term, (Part(index.reshape(*lead, length, width)),))


@rule("softmax", "_softmax")
def softmax(reader: Any, operation: Operation, scores: Any, dim: Any = None, *_: Any, **__: Any) -> Scores:
    if not isinstance(scores, Scores) or scores.weights or dim not in (-1, len(scores.shape) - 1):
        raise UndescribedError(
            "a softmax must be over the scores of attention of each token, and is over something else"
        )
    return replace(scores, weights=True)


@rule("masked_fill")
def masked_fill(reader: Any, operation: Operation, scores: Any, mask: Any, value: Any) -> Any:
    number = number_of(reader, value)
    if not isinstance(mask, Value) or not mask.known:
        raise UndescribedError("a mask must not depend on the inputs, and does")
    if not bool(mask.tensor.any()):
        return scores
    if not isinstance(scores, Scores) or scores.weights or number is None or number > -1e4:
        raise UndescribedError("a mask must take scores of attention away, and does otherwise")
    return only(scores, ~mask.tensor)


@rule("where")
def where(reader: Any, operation: Operation, mask: Any, first: Any, second: Any) -> Any:
    if isinstance(first, Scores) and isinstance(mask, Value) and mask.known:
        number = numbers_of(reader, second)
        if bool((torch.as_tensor(number) <= -1e4).all()) and not first.weights:
            return only(first, mask.tensor)
    raise UndescribedError("a mask must take scores of attention away, and does otherwise")


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(
    reader: Any,
    operation: Operation,
    query: Seen,
    key: Seen,
    value: Seen,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Seen:
    if enable_gqa:
        key, value = (
            one.viewed(lambda tensor: tensor.repeat_interleave(query.shape[-3] // tensor.shape[-3], -3))
            for one in (key, value)
        )
    width = query.shape[-1]
    query, key = _heads(query, key)
    scores = Scores(query, key, 1 / math.sqrt(width) if scale is None else float(scale))
    if is_causal:
        scores = only(scores, torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if attn_mask is not None:
        scores = _masked(reader, scores, attn_mask)
    return _mixed(replace(scores, weights=True), value)


def _masked(reader: Any, scores: Scores, mask: Any) -> Scores:
    if isinstance(mask, Value) and mask.known and mask.tensor.dtype == torch.bool:
        return only(scores, mask.tensor)
    return masked_by(reader, scores, mask)


def seen_tokens(allowed: Tensor | None, tokens: int) -> tuple[bool, int | None]:
    """Of a mask ``(..., tokens, tokens)`` whether it is causal, and its window.

    Raises:
        UndescribedError: a mask of another form.
    """
    if allowed is None:
        return False, None
    flat = allowed.expand(*allowed.shape[:-2], tokens, tokens).reshape(-1, tokens, tokens)
    if not bool((flat == flat[:1]).all()):
        raise UndescribedError("every head and every sample must see the same tokens, and some see others")
    mask = flat[0]
    window = int(mask[-1].sum())
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    if not bool((mask == ((distance >= 0) & (distance < window))).all()):
        raise UndescribedError("a token must see all tokens, or those before it, or the last of these, and sees others")
    return True, None if window == tokens else window
