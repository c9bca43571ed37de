"""What makes the theory of token kernels quick, against what is slow: the same numbers to what is promised."""

import numpy as np
import pytest

from criticality.pointwise import Pointwise
from criticality.pointwise.hermite import hermite_coefficients, tabulated_coefficients
from criticality.theory import Attention, Linear, Rotary, ScoreSampling, TokenKernel
from criticality.theory.norms import KERNEL_TOLERANCE, PointwiseMap


def _kernel(tokens, channels, seed=0, common=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, channels)) * np.exp(rng.normal(0, 0.7, (tokens, 1)))
    x = common * rng.standard_normal(channels) + x
    return TokenKernel(x @ x.T / channels)


@pytest.mark.parametrize("common", [0.0, 1e3], ids=["tokens apart", "tokens nearly alike"])
@pytest.mark.parametrize("head_dim", [None, 4])
def test_gradients_through_scores_are_their_definition(head_dim, common):
    """``E R K R^T`` and ``E R^T Q R`` summed entry by entry in double precision."""
    tokens, sampling = 6, ScoreSampling(samples=6, seed=3)
    kernel, gradient = _kernel(tokens, 9, 1, common), _kernel(tokens, 9, 2)
    scale = 1 / np.sqrt(kernel.mean_diagonal())
    attention = Attention(
        Linear(1.1 * scale), Linear(0.9 * scale), Linear(1.3), Linear(0.8), head_dim=head_dim, score_scale=0.7
    )
    values, by_output = 1.3 * kernel.entries, 0.8 * gradient.entries
    heads, total = attention._heads(kernel, sampling), np.zeros((tokens, tokens))
    for chunk in heads.drawn():
        for number, pair in enumerate(chunk.attention):
            sides = (chunk.query.channels, chunk.key.channels)
            query, key = (side[min(number, len(side) - 1)] for side in sides)
            for a in pair:
                p = np.array([np.diag(row) - np.outer(row, row) for row in a])
                spread = np.einsum("abi,ij,cjd->acbd", p, values, p)
                total += 1.3 * a.T @ by_output @ a
                total += 1.1 * scale * 0.49 * by_output * np.einsum("acbd,db->ac", spread, key @ key.T)
                total += 0.9 * scale * 0.49 * np.einsum("ac,acbd->bd", query @ query.T * by_output, spread)
    found = attention.backward(kernel, gradient, sampling).entries
    np.testing.assert_allclose(found, total / 6, rtol=0, atol=1e-6 * np.abs(total / 6).max())


def test_heads_with_drawn_gradients_have_the_mean_of_those_without():
    """A rotation by nothing takes the other path through the scores: the same within its own spread."""
    kernel, gradient = _kernel(5, 9, 1), _kernel(5, 9, 2)
    exact = Attention(Linear(0.8), Linear(0.8), head_dim=4).backward(kernel, gradient, ScoreSampling(4000)).entries
    still = Rotary(positions=np.zeros((5, 1)))
    runs = [
        Attention(Linear(0.8), Linear(0.8), head_dim=4, rotary=still)
        .backward(kernel, gradient, ScoreSampling(4000, seed))
        .entries
        for seed in range(8)
    ]
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(8)
    assert np.all(np.abs(np.mean(runs, axis=0) - exact) <= 5 * error + 0.02 * np.abs(exact).max())


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("function", ["tanh", "silu", "softsign", "erf"])
def test_whole_kernels_are_mapped_to_the_tolerance(function, alpha, derivative):
    kernel, pointwise = _kernel(90, 120), Pointwise(function, alpha=alpha, gamma=1.2, beta=0.3)
    found = kernel.map_pairs(PointwiseMap(pointwise, derivative)).entries
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 90, (2, 60))
    q = np.diagonal(kernel.entries)
    rho = np.clip(kernel.entries[rows, columns] / np.sqrt(q[rows] * q[columns]), -1, 1)
    rho[rows == columns] = 1.0
    average = pointwise.Cd if derivative else pointwise.C
    exact = average(q[rows], q[columns], rho)
    size = np.sqrt(average(q, q, 1.0))
    allowed = KERNEL_TOLERANCE if pointwise.phi.kinks == () else 1e-6
    assert np.all(np.abs(found[rows, columns] - exact) <= allowed * size[rows] * size[columns])


def test_interpolated_coefficients_are_as_near_as_they_say():
    q = np.geomspace(1e-4, 4.0, 300)
    function = Pointwise("tanh").phi.value
    exact, remainder = hermite_coefficients(function, q, 0.0)
    size = np.sqrt(np.sum(exact**2, axis=1) + remainder)
    for tolerance in (1e-5, 1e-9):
        found, _ = tabulated_coefficients(function, q, 0.0, (), exact.shape[1] - 1, tolerance)
        error = np.linalg.norm(found - exact, axis=1) / size
        assert 0 < error.max() <= tolerance
