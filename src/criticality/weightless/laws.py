"""The laws of a model's parameters, whether it has weights or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from criticality.arguments import checked
from criticality.errors import UnknownLawError
from criticality.stream.sharded import gathered
from criticality.weightless.drawing import LARGEST_QR
from criticality.weightless.entries import SAMPLE
from criticality.weightless.law import Law
from criticality.weightless.storage import Piece, origins_of

PADDING = 0.01
"""A constant part of a weight up to this fraction is a padding row, which says nothing about the other rows."""


@checked
def laws_of(model: nn.Module) -> dict[str, Law]:
    """The law of every parameter, by name: of a random weight its own, of a real one (any dtype and device) what is
    measured on it. Sharded parameters are gathered, one after the other: all processes must ask.
    """
    return {name: law_of(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}


def law_of(weight: Tensor, orthogonal: bool = True) -> Law:
    """The law of one weight, random or real; ``orthogonal``: of a real one, whether it is asked if its rows are."""
    from criticality.weightless.weight import RandomWeight

    return weight.law if isinstance(weight, RandomWeight) else measured_law(weight, orthogonal)


@checked
def unknown_laws(model: nn.Module) -> list[str]:
    """Names of the parameters of a model built without weights that have entries to which nothing was ever written.

    Of real weights those that hold nan, which is what ``build_without_weights`` puts where a small one is allocated.
    """
    return [name for name, parameter in model.named_parameters(remove_duplicate=False) if not _is_known(parameter)]


def _is_known(parameter: Tensor) -> bool:
    from criticality.weightless.weight import RandomWeight

    if isinstance(parameter, RandomWeight):
        return parameter.law.known
    if isinstance(parameter, nn.UninitializedParameter):
        return True  # made by the first pass, by torch's own initialization
    return not (parameter.is_floating_point() and bool(parameter.detach().isnan().any()))


def require_known_laws(model: nn.Module) -> None:
    """Raise when the law of a parameter is unknown.

    Raises:
        UnknownLawError: names the first of them, and what can be done.
    """
    unknown = unknown_laws(model)
    if unknown:
        others = f" (and {len(unknown) - 1} others)" if len(unknown) > 1 else ""
        raise UnknownLawError(
            f"the law of {unknown[0]}{others} is unknown, because the model allocates it and never initializes it: initialize it"
            " where the model is built, or say what it is drawn from with `initialize(model, init)`"
        )


@torch.no_grad()
def measured_law(weight: Tensor, orthogonal: bool = True) -> Law:
    """The law of a real weight of any shape: moments of all its entries, and a sample of at most 16,384 of them."""
    weight = gathered(weight.detach())
    flat = weight.reshape(-1)
    if flat.numel() == 0:
        return Law(torch.full((1,), float("nan"), dtype=torch.float64, device="cpu"))
    moments = (flat.sum(dtype=torch.float64).item() / flat.numel(), mean_square(flat))
    orthogonal = orthogonal and is_orthogonal(weight)
    if flat.numel() > SAMPLE:
        index = torch.randint(flat.numel(), (SAMPLE,), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        flat = flat[index.to(flat.device)]
    return Law(flat.double().cpu(), orthogonal, moments, paired=True)


def mean_square(weight: Tensor) -> float:
    """Of all entries, summed in double precision without a copy in it."""
    return torch.linalg.vector_norm(weight, dtype=torch.float64).item() ** 2 / weight.numel()


def is_orthogonal(weight: Tensor) -> bool:
    """Whether the rows of a weight (or its columns, the fewer of them) are orthogonal and equally long.

    Then all vectors of one length on the shorter side are equally long after the product; after one with independent entries the
    squares differ by ``sqrt(2 / longer side)``.
    """
    if weight.dim() < 2 or weight.is_meta or weight.numel() == 0:
        return False
    matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    longer, shorter = matrix.shape
    if not 16 <= shorter <= LARGEST_QR:
        return False
    vectors = torch.randn(
        shorter, 8, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu"
    )
    vectors /= torch.linalg.vector_norm(vectors, dim=0)
    lengths = torch.linalg.vector_norm(matrix @ vectors.to(matrix), dim=0).square().double()
    return float(lengths.max() - lengths.min()) < 0.1 * (2 / longer) ** 0.5 * float(lengths.mean())


def law_of_pieces(pieces: Sequence[Piece]) -> Law:
    """The law of entries of which each piece has its own distribution: their mixture, padding left out."""
    total = sum(length for length, _ in pieces)
    rest = [piece for piece in pieces if not _padding(piece, total)] or list(pieces)
    if len(rest) == 1:
        entries = rest[0].entries
        orthogonal, origins = entries.matrix is not None, origins_of(pieces)
        return Law(entries.values.double(), orthogonal, origins=origins, paired=True, order=entries.order)
    kept = sum(length for length, _ in rest)
    samples = [entries.values.double() for _, entries in rest]
    moments = tuple(
        sum(length / kept * power.mean().item() for (length, _), power in zip(rest, powers, strict=True))
        for powers in (samples, [s.square() for s in samples])
    )
    counts = [max(1, round(SAMPLE * length / kept)) for length, _ in rest]
    mixture = torch.cat([_take(sample, count) for sample, count in zip(samples, counts, strict=True)])
    mixture = mixture[torch.randperm(len(mixture), generator=torch.Generator("cpu").manual_seed(0), device="cpu")]
    return Law(mixture, moments=(moments[0], moments[1]), origins=origins_of(pieces), paired=True)


def _padding(piece: Piece, total: int) -> bool:
    constant = piece.entries.constant and bool(torch.isfinite(piece.entries.values).all())
    return constant and piece.length <= PADDING * total


def _take(sample: Tensor, count: int) -> Tensor:
    """``count`` entries of a sample, spread evenly over its range."""
    place = (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count * len(sample)
    return sample.sort().values[place.long()]
