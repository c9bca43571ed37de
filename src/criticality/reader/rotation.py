"""Queries and keys of one head as rotated channels, and the rotation that they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.terms import Seen
from criticality.theory.attention import Rotary


@dataclass(frozen=True, eq=False)
class Side:
    """Queries or keys, the same for every head.

    Attributes:
        channels: of the projection that they take, all heads together, each once.
        heads: how many sets of channels.
        width: channels of a head.
        scale: factor of the rotation.
        angles: ``(tokens, pairs)``; ``None`` without rotation.
        tokens: of each sample, ``(samples, tokens)``.
    """

    channels: Tensor
    heads: int
    width: int
    scale: float
    angles: np.ndarray | None
    tokens: Tensor


def side(seen: Seen) -> Side:
    """Read queries or keys ``(..., tokens, channels)``.

    Raises:
        UndescribedError: sums of channels that are no rotation of pairs, or heads that are not alike.
    """
    length, width = seen.shape[-2:]
    count = seen.base.channels
    index = seen.parts[0].index.reshape(-1, length, width)
    tokens, channels = index[..., 0] // count, index[:, 0] % count
    sets = channels.unique(dim=0)
    if len(channels.reshape(-1).unique()) != sets.numel():
        raise UndescribedError("heads must have channels of their own, and share some")
    scale, angles = _unmixed(seen, index, tokens, channels) or _turned(seen, tokens, channels)
    return Side(sets.reshape(-1), len(sets), width, scale, angles, tokens.unique(dim=0))


def _unmixed(seen: Seen, index: Tensor, tokens: Tensor, channels: Tensor) -> tuple[float, None] | None:
    """The factor where every token has the same channels of its own, times one number; ``None`` where that is not so."""
    coefficient = seen.parts[0].coefficient
    if len(seen.parts) > 1 or isinstance(coefficient, Tensor):
        return None
    own = tokens[..., None] * seen.base.channels + channels[:, None]
    return (abs(coefficient), None) if torch.equal(index, own) else None


def _turned(seen: Seen, tokens: Tensor, channels: Tensor) -> tuple[float, np.ndarray | None]:
    """Factor and angles of channels that may be sums of others of their token."""
    length, width = seen.shape[-2:]
    count = seen.base.channels
    parts = [(part.index.reshape(-1, length, width), _full(part.coefficient, seen.shape)) for part in seen.parts]
    for index, coefficient in parts:
        if not bool((coefficient == coefficient[:1]).all()):
            raise UndescribedError("queries and keys must be turned alike in every head and sample, and are not")
        used = coefficient.abs() > 0
        if not bool(((index // count == tokens[..., None]) | ~used).all()):
            raise UndescribedError("queries and keys of a token must come from that token, and do not")
    return _angles([(index[0] % count, coefficient[0]) for index, coefficient in parts], channels[0])


def _full(coefficient: float | Tensor, shape: torch.Size) -> Tensor:
    full = torch.as_tensor(coefficient, dtype=torch.float64).expand(shape)
    return full.reshape(-1, *shape[-2:])


def _angles(parts: list[tuple[Tensor, Tensor]], order: Tensor) -> tuple[float, np.ndarray | None]:
    """Factor and angles of what one head does to its channels: ``x_c cos + x_partner sin``, for every token."""
    width = parts[0][0].shape[-1]
    place = torch.full((int(order.max()) + 1,), -1)
    place[order] = torch.arange(width)
    for channel, coefficient in parts:
        if not bool((channel <= order.max()).all()) or bool(((place[channel] < 0) & (coefficient != 0)).any()):
            raise UndescribedError("channels of a head must be turned among each other, and others are added")
    places = torch.stack([place[channel].clamp_min(0) for channel, _ in parts])
    coefficients = torch.stack([coefficient for _, coefficient in parts])
    own = places == torch.arange(width)
    diagonal = coefficients.where(own, 0.0).sum(0)
    rest = coefficients.where(~own, 0.0)
    strongest = rest.abs().flatten(0, 1).argmax(0)
    partner = places.flatten(0, 1)[strongest, torch.arange(width)]
    sine = rest.where(places == partner, 0.0).sum(0)
    left = rest.where(places != partner, 0.0)
    size = (diagonal.square() + sine.square()).sqrt()
    scale = float(size[0, 0])
    turned = rest.abs().amax((0, 1)) > 0
    pairs = [(int(a), int(partner[a])) for a in torch.nonzero(turned).flatten() if int(a) < int(partner[a])]
    ends = [end for pair in pairs for end in pair]
    paired = sorted(ends) == torch.nonzero(turned).flatten().tolist()
    if not _alike(size) or bool(left.abs().amax() > 1e-7 * abs(scale)) or not paired:
        raise UndescribedError(_MIXED)
    if not pairs:
        return _unturned(diagonal), None
    one, other = (torch.tensor(ends) for ends in zip(*pairs, strict=True))
    if not torch.allclose(sine[:, one], -sine[:, other], rtol=1e-5, atol=1e-6) or not torch.allclose(
        diagonal[:, one], diagonal[:, other], rtol=1e-5, atol=1e-6
    ):
        raise UndescribedError(_MIXED)
    scale = float(size[:, one].mean()) if abs(float(size.max() - size.min())) > 0 else scale
    return scale, torch.atan2(-sine[:, one], diagonal[:, one]).numpy()


_MIXED = "queries and keys must be turned in pairs of channels, and are mixed otherwise"


def _unturned(diagonal: Tensor) -> float:
    """The one factor of all channels and tokens ``(tokens, channels)``."""
    if not _alike(diagonal.abs()):
        raise UndescribedError(_MIXED)
    if not bool((diagonal == diagonal[:1]).all()):
        raise UndescribedError("queries and keys must be scaled alike for every token, and are not")
    return float(diagonal[0, 0].abs())


def _alike(size: Tensor) -> bool:
    return torch.allclose(size, size[0, 0].expand_as(size), rtol=1e-5, atol=1e-7)


def rotary(query: np.ndarray | None, key: np.ndarray | None) -> Rotary | None:
    """The rotation of both sides: by frequencies where angles grow with the position from 0, otherwise by its angles.

    Raises:
        UndescribedError: sides that are turned otherwise than each other.
    """
    if query is None and key is None:
        return None
    if query is None or key is None or query.shape != key.shape or not np.allclose(query, key, atol=1e-6):
        raise UndescribedError("queries and keys must be turned alike, and are not")
    tokens = np.arange(len(query))
    if len(query) > 1 and np.all(query[0] == 0.0):
        frequencies = query[1]
        expected = np.outer(tokens, frequencies)
        close = np.hypot(np.cos(query) - np.cos(expected), np.sin(query) - np.sin(expected))
        if np.all(close <= 2e-6 * (1 + np.abs(expected))):
            return Rotary(tuple(frequencies.tolist()))
    return Rotary(positions=query)
