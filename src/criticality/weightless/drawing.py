"""Real entries from their distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from criticality.shapes import Float, Shaped
from criticality.weightless.entries import Entries

LARGEST_QR = 2048
"""Matrices whose smaller side is longer are drawn with independent entries instead of orthogonal ones."""

_CHUNK = 2**22


def draw_entries(entries: Entries, out: Shaped[Tensor, " n"], generator: torch.Generator) -> Shaped[Tensor, " n"]:
    """Fill ``out``, any dtype and device, with draws, on the generator's device first: a matrix with orthogonal rows
    (``entries.matrix``) by ``haar`` when its smaller side is at most ``LARGEST_QR`` long, anything else independently.
    """
    if entries.constant:
        return out.fill_(entries.values.item())
    if (
        entries.matrix is not None
        and out.numel() == entries.matrix[0] * entries.matrix[1]
        and min(entries.matrix) <= LARGEST_QR
    ):
        rows, columns = entries.matrix
        scale = (entries.values.double().square().mean() * max(rows, columns)).sqrt().item()
        return out.copy_(scale * haar(rows, columns, generator).flatten())
    values = entries.values.to(generator.device)
    if values.is_floating_point():
        values = values.to(torch.float64 if out.dtype == torch.float64 else torch.float32)
    for part in out.split(_CHUNK):
        index = torch.randint(
            len(values), (part.numel(),), generator=generator, device=generator.device, dtype=torch.int32
        )
        part.copy_(values.index_select(0, index))
    return out


def haar(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """A uniformly distributed matrix with orthonormal columns, or rows where they are the fewer: float32, by QR."""
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=generator, device=generator.device)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()
    return q if rows >= columns else q.T
