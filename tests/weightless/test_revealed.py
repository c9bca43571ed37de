"""A matrix that is used again and again stays one matrix, in single precision, too."""

import pytest
import torch

from criticality.weightless.law import Law
from criticality.weightless.revealed import LEFT, RIGHT, RevealedMatrix

WIDTH, ROWS = 64, 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_products_with_rows_that_grow_alike_are_those_of_one_matrix(seed: int, dtype: torch.dtype) -> None:
    """``x <- (1 + M) x`` turns its rows towards a few directions, so that little of each is new."""
    matrix = RevealedMatrix(
        Law(torch.tensor([-1.0, 1.0]) / WIDTH**0.5), (WIDTH, WIDTH), ("test", seed), torch.empty(0).to(dtype)
    )
    rows = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)
    asked = []
    for _ in range(10):
        product = matrix.times(rows, RIGHT)
        asked.append((rows, product, RIGHT))
        rows = rows + product
    back = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(9)).to(dtype)
    for _ in range(3):
        product = matrix.times(back, LEFT)
        asked.append((back, product, LEFT))
        back = back + product
    matrix.settle("normal")
    drawn = matrix.draw()
    assert drawn.dtype == dtype
    for given, product, side in asked:
        again = given @ (drawn if side == LEFT else drawn.mT)
        assert float((again - product).norm() / product.norm()) < 1e-5
    assert float(drawn.square().mean() * WIDTH) == pytest.approx(1.0, abs=0.1)  # 4,096 entries
