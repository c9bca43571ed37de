"""Token kernels: what is accepted, and that propagation keeps them positive."""

import numpy as np
import pytest

from criticality.errors import ArgumentError, TokensNotEquivalentError
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, Linear, SymmetricKernel, TokenKernel, make_norm, propagate, transformer


def _random_kernel(tokens, seed):
    x = np.random.default_rng(seed).standard_normal((tokens, 2 * tokens))
    return x @ x.T / (2 * tokens)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"square matrix, got the shape \(2, 3\)"),
        (np.array([[1.0, 0.5], [0.1, 1.0]]), "must be symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite, but has the eigenvalue -1"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "nan or infinite"),
    ],
)
def test_what_is_not_a_kernel_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        TokenKernel.of(matrix)


@pytest.mark.parametrize("norm", ["ln", "dyt", "derf"])
def test_kernels_stay_positive_and_traces_follow_the_profile(norm):
    network = transformer(make_norm(norm), Attention(), MLP(Pointwise("gelu"), Linear(), Linear(2.0)), 6)
    profile = propagate(network, TokenKernel.of(_random_kernel(12, 0)), samples=8, keep_kernels=True)
    for name in ("kernel", "backward_kernel"):
        assert float(np.linalg.eigvalsh(profile[name].values).min()) > -1e-10
    np.testing.assert_allclose(np.trace(profile.kernel.values, axis1=1, axis2=2) / 12, profile.q, rtol=1e-12)
    np.testing.assert_allclose(np.trace(profile.backward_kernel.values, axis1=1, axis2=2) / 12, 1.0, rtol=1e-12)


def test_several_inputs_average_j_not_its_logarithm():
    network = transformer(make_norm("dyt"), Attention(scores="uniform"), MLP(Pointwise("gelu")), 3)
    kernels = [TokenKernel.of(scale * _random_kernel(5, seed)) for seed, scale in ((0, 0.3), (1, 4.0))]
    single = [float(propagate(network, kernel).log_apjn[0]) for kernel in kernels]
    both = float(propagate(network, kernels).log_apjn[0])
    assert both == pytest.approx(np.log(np.mean(np.exp(single))), rel=1e-12)


def test_samples_are_reproducible_and_their_error_shrinks():
    network = transformer(make_norm("dyt"), Attention(), MLP(Pointwise("gelu")), 2)
    kernel = TokenKernel.of(_random_kernel(8, 3))

    def spread(samples):
        return np.std([float(propagate(network, kernel, samples=samples, seed=s).log_apjn[0]) for s in range(12)])

    first, again = (propagate(network, kernel, samples=8, seed=5) for _ in range(2))
    assert first.identical(again)
    assert spread(200) < 0.5 * spread(8)


def test_equivalent_tokens_have_the_mean_variance_and_covariance_of_real_ones():
    """Shuffling tokens makes real ones equivalent on average: the mean over all orders is the symmetric kernel."""
    matrices = [_random_kernel(5, seed) for seed in (0, 1)]
    mean = SymmetricKernel.mean_of([TokenKernel.of(matrix) for matrix in matrices])
    orders = np.random.default_rng(2)
    shuffled = np.mean(
        [np.mean([m[np.ix_(o, o)] for m in matrices], axis=0) for o in (orders.permutation(5) for _ in range(20_000))],
        axis=0,
    )
    expected = np.full((5, 5), mean.p) + (mean.q - mean.p) * np.eye(5)
    np.testing.assert_allclose(shuffled, expected, atol=0.01)
    assert mean.tokens == 5
    assert SymmetricKernel.mean_of([TokenKernel.of([[0.7]])]).p == 0.7


def test_kernels_of_different_numbers_of_tokens_have_no_mean():
    with pytest.raises(ArgumentError, match=r"kernels of \[3, 2\] tokens must be"):
        SymmetricKernel.mean_of([TokenKernel.of(np.eye(3)), TokenKernel.of(np.eye(2))])
    with pytest.raises(ArgumentError, match="at least one"):
        SymmetricKernel.mean_of([])


def test_a_network_that_tells_tokens_apart_refuses_equivalent_ones_by_kind():
    network = transformer(make_norm("ln"), Attention(causal=True), MLP(Pointwise("gelu")), 2)
    with pytest.raises(TokensNotEquivalentError):
        propagate(network, SymmetricKernel.of(1.0, 0.3, 4))
