"""Spans of rows: a root and orthonormal directions, of rows that are far from dependent and of others."""

import pytest
import torch
from torch import Tensor

from criticality.weightless.span import PIVOT, RIDGE, Span, root_of, triangle_times

ROWS, WIDTH = 41, 200  # not a multiple of the blocks


def rows_of(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(ROWS, WIDTH, generator=generator)
    if kind == "alike":
        rows = rows[:1] + 1e-4 * rows
    if kind == "equal":
        rows[7] = rows[3]
    if kind == "zero":
        rows[5] = 0.0
    return rows * torch.logspace(-3, 3, ROWS)[:, None]  # of very different lengths


SINGLE = 1e-6
DROPPED = {"equal": 10 * PIVOT}
"""What is lost of rows, in parts of their length, where one is taken for a combination of others."""
SMEARED = {"alike": 10 * RIDGE / 1e-4**2, "equal": 10 * PIVOT}
"""By how much directions are not orthonormal, where rows differ by as little as 1e-4."""


@pytest.mark.parametrize("kind", ["apart", "alike", "equal", "zero"])
def test_rows_are_their_root_times_orthonormal_directions(kind: str) -> None:
    rows = rows_of(kind)
    span, lengths = Span.of(rows), rows.double().norm(dim=1, keepdim=True).clamp(min=1e-30)
    assert (span.lower is not None) == (kind == "apart")
    directions = span.directions.double()
    assert ((span.root.double() @ directions - rows) / lengths).abs().max() < DROPPED.get(kind, SINGLE)
    gram = directions @ directions.mT
    there = directions.norm(dim=1) > 0
    assert int((~there).sum()) == (kind in ("equal", "zero"))
    assert (gram[there][:, there] - torch.eye(int(there.sum()))).abs().max() < SMEARED.get(kind, 10 * SINGLE)
    root = root_of(rows).double()
    assert torch.equal(root, root.tril())
    rows = rows.double()
    assert ((root @ root.mT - rows @ rows.mT) / (lengths * lengths.mT)).abs().max() < DROPPED.get(kind, SINGLE)


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
def test_components_and_combinations_are_those_along_the_directions(kind: str) -> None:
    span = Span.of(rows_of(kind))
    others = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(4))
    components = span.components(others)
    assert torch.allclose(components, others @ span.directions.mT, atol=1e-4)
    assert torch.allclose(span.combination(components), components @ span.directions, atol=1e-4)


def test_components_of_rows_that_are_alike_keep_what_tells_them_apart() -> None:
    """Differences of 1e-4 would drown in the rounding of a Gram matrix in single precision, which leaves 3e-4."""
    rows = rows_of("alike")
    rows = rows / rows.norm(dim=1, keepdim=True)
    differences = rows[1:] - rows[:1]
    root = Span.of(rows).root
    found = root[1:] - root[:1]
    assert torch.allclose(found.norm(dim=1), differences.norm(dim=1), rtol=0.02)


@pytest.mark.parametrize("count", [5, ROWS, 132])
def test_triangles(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    lower = torch.randn(count, count, generator=generator).tril()
    values = torch.randn(count, 30, generator=generator)
    place = torch.empty(count, 30)
    assert triangle_times(lower, values, place) is place
    assert torch.allclose(place, lower @ values, atol=1e-4)
    assert triangle_times(lower.double(), values, place).dtype == torch.float64


def test_what_is_not_finite_stays_in_its_row():
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    rows[2, 3] = float("nan")
    others = [0, 1, 3, 4, 5]
    for root in (Span.of(rows).root, root_of(rows)):
        assert bool(root[2].isnan().all())
        torch.testing.assert_close(
            (root @ root.mT)[others][:, others], rows[others] @ rows[others].mT, rtol=1e-5, atol=1e-5
        )
