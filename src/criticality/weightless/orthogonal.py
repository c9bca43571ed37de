"""Orthogonal weights, as an initialization makes them: Q of a QR decomposition of a normal matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from criticality.weightless.entries import Entries, player
from criticality.weightless.playing import rule
from criticality.weightless.storage import Piece
from criticality.weightless.weight import RandomWeight


@rule("linalg_qr")
def qr(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of a tall matrix of independent normal entries Q is uniformly distributed (Haar), entries of variance 1 / rows.

    R has independent entries: chi on the diagonal, of any sign, drawn really where it is asked for (``diagonal``).
    """
    weight: RandomWeight = args[0]
    pieces = weight.pieces()
    if pieces is None or len(pieces) != 1 or not _is_normal(pieces[0].entries):
        return NotImplemented
    if weight.dim() != 2 or weight.shape[0] < weight.shape[1] or len(args) > 1 or kwargs:
        return NotImplemented
    rows, columns = weight.shape
    q = player().draw("normal", 0.0, rows**-0.5)
    pieces_q = [Piece(weight.numel(), replace(q, matrix=(rows, columns)))]
    r = RandomWeight.from_pieces([Piece(columns**2, player().draw("constant"))], (columns, columns), dtype=weight.dtype)
    r.upper = pieces[0].entries.values.std().item() * (rows - torch.arange(columns, device="cpu")).double().sqrt()
    return RandomWeight.from_pieces(pieces_q, weight.shape, dtype=weight.dtype, device=weight.device), r


def _is_normal(entries: Entries) -> bool:
    """Whether a sample is a multiple of that of a centred normal law."""
    values = player().draw("normal").values
    if len(entries.values) != len(values):
        return False
    return torch.allclose(entries.values, values * entries.values.std(correction=0))


@rule("diagonal", "diag", "diagonal_copy")
def diagonal(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of R of a QR decomposition; its signs are arbitrary."""
    upper = args[0].upper
    if upper is None or any(args[1:2]):
        return NotImplemented
    signs = torch.randint(0, 2, upper.shape, generator=player().generator, device="cpu") * 2 - 1
    return (upper * signs).to(args[0].dtype).to(args[0].device)
