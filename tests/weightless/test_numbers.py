"""Random numbers of the right distribution, for a seed and nothing else."""

import pytest
import torch

from criticality.weightless.law import Law
from criticality.weightless.numbers import entries, normal

COUNT = 400_003  # more than one chunk, no multiple of four


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers(dtype: torch.dtype) -> None:
    found = normal((COUNT,), ("test", 1), torch.empty(0, dtype=dtype))
    assert found.dtype == dtype
    assert torch.equal(found, normal((COUNT,), ("test", 1), torch.empty(0, dtype=dtype)))
    error = COUNT**-0.5  # of the mean; of the k-th moment sqrt((2k - 1)!! / n)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(found.double().pow(power).mean()) - expected) < 4 * variance**0.5 * error
    ordered = found.double().sort().values
    steps = (torch.arange(COUNT) + 0.5) / COUNT
    assert (
        float((torch.special.ndtr(ordered) - steps).abs().max()) < 1.63 * error
    )  # Kolmogorov, Smirnov: one in a hundred
    assert abs(float((found[1:] * found[:-1]).mean())) < 4 * error  # neighbours come from the same word
    first, second = found[:-1].double().view(-1, 2).unbind(1)  # and from the same pair
    for one, other, variance in ((1, 2, 2), (2, 2, 4), (3, 1, 15), (1, 3, 15), (2, 4, 192)):
        independent = first.pow(one).mean() * second.pow(other).mean()
        assert abs(float((first.pow(one) * second.pow(other)).mean() - independent)) < 5 * variance**0.5 * error
    other = normal((COUNT,), ("test", 2), torch.empty(0, dtype=dtype))
    assert abs(float((found * other).mean())) < 4 * error


def test_entries_are_those_of_the_sample() -> None:
    sample = torch.linspace(-1, 2, 2**14, dtype=torch.float64)
    for law in (Law(sample), Law(sample[::3])):
        found = entries(law, (300, 500), ("test",), torch.empty(0, dtype=torch.float64))
        assert found.shape == (300, 500)
        assert bool(torch.isin(found, law.sample).all())
        assert float(found.mean()) == pytest.approx(law.mean, abs=4 * (law.variance / found.numel()) ** 0.5)
        assert float(found.var()) == pytest.approx(law.variance, rel=0.01)
    assert torch.equal(entries(Law(torch.ones(1)), (2, 3), ("test",), torch.empty(0)), torch.ones(2, 3))
