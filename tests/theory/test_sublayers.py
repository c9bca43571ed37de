"""Every branch, norm and placement against wide random networks, forward and backward."""

import numpy as np
import pytest

from cases import SUBLAYERS
from criticality.theory import (
    Attention,
    HeadNorm,
    Linear,
    Parallel,
    Rotary,
    ScoreSampling,
    SymmetricKernel,
    TokenKernel,
)
from random_network import step

KERNEL = np.array([[1.0, 0.5, 0.3, 0.0], [0.5, 2.0, -0.2, 0.4], [0.3, -0.2, 0.5, 0.1], [0.0, 0.4, 0.1, 1.5]])
GRADIENT = np.array([[1.0, 0.2, 0.1, 0.0], [0.2, 0.7, 0.3, -0.1], [0.1, 0.3, 1.4, 0.2], [0.0, -0.1, 0.2, 0.9]])
WIDTH, DRAWS = 1024, 24
FINITE_WIDTH = 12 / WIDTH
"""What is left of order 1/width (and 1/head width, for attention with 16 heads: sixteen times as much)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBLAYERS)
def test_maps_agree_with_wide_networks(name):
    sublayer = SUBLAYERS[name]
    sampling = ScoreSampling(samples=4000)
    forward = sublayer.forward(TokenKernel(KERNEL), sampling).entries
    backward = sublayer.backward(TokenKernel(KERNEL), TokenKernel(GRADIENT), sampling).entries
    after, after_error, before, before_error = step(sublayer, KERNEL, GRADIENT, WIDTH, DRAWS)
    allowed = FINITE_WIDTH * (3 if _attends(sublayer.branch) else 1)
    assert np.all(np.abs(forward - after) <= 4 * after_error + allowed * np.abs(after).max())
    assert np.all(np.abs(backward - before) <= 4 * before_error + allowed * np.abs(before).max())


def _attends(branch):
    return isinstance(branch, Attention) or (
        isinstance(branch, Parallel) and any(_attends(getattr(part, "branch", part)) for part in branch.branches)
    )


@pytest.mark.parametrize("name", [name for name, s in SUBLAYERS.items() if not _attends(s.branch)])
def test_both_states_agree_without_attention(name):
    """Symmetric tokens: the two numbers and the full matrix are the same map."""
    sublayer, tokens = SUBLAYERS[name], 5
    q, p, u, v = 1.7, 0.6, 0.9, -0.2
    full = {name: TokenKernel((a - b) * np.eye(tokens) + b) for name, (a, b) in {"K": (q, p), "G": (u, v)}.items()}
    state = SymmetricKernel.of(q, p, tokens)
    forward = sublayer.forward(state, ScoreSampling())
    backward = sublayer.backward(state, state.with_entries(u, v), ScoreSampling())
    matrix = sublayer.forward(full["K"], ScoreSampling()).entries
    matrix_back = sublayer.backward(full["K"], full["G"], ScoreSampling()).entries
    np.testing.assert_allclose([forward.q, forward.p], [matrix[0, 0], matrix[0, 1]], rtol=1e-7)
    np.testing.assert_allclose([backward.q, backward.p], [matrix_back[0, 0], matrix_back[0, 1]], rtol=1e-7)


@pytest.mark.parametrize("qk_norm", [None, HeadNorm(gamma=0.8)])
@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0])
def test_closed_attention_agrees_with_sampled_at_many_tokens(scale, qk_norm):
    """Symmetric tokens: the large-T closed form against sampled scores of the full matrix."""
    tokens = 256
    heads = {} if qk_norm is None else {"head_dim": 512, "query_norm": qk_norm, "key_norm": qk_norm}
    attention = Attention(Linear(scale), Linear(), Linear(1.2), Linear(0.9), score_scale=0.9, **heads)
    state = SymmetricKernel.of(1.0, 0.4, tokens)
    gradient = state.with_entries(1.0, 0.3)
    full = TokenKernel(0.6 * np.eye(tokens) + 0.4), TokenKernel(0.7 * np.eye(tokens) + 0.3)
    sampling = ScoreSampling(samples=24)
    forward, backward = attention.forward(state, sampling), attention.backward(state, gradient, sampling)
    sampled, sampled_back = attention.forward(full[0], sampling), attention.backward(*full, sampling)
    assert forward.q == pytest.approx(sampled.mean_diagonal(), rel=0.01)
    assert forward.p == pytest.approx(sampled.mean_off_diagonal(), rel=0.01)
    assert backward.q == pytest.approx(sampled_back.mean_diagonal(), rel=0.05)
    assert backward.p == pytest.approx(sampled_back.mean_off_diagonal(), rel=0.05)


def test_small_scores_are_the_uniform_limit():
    kernel, gradient = TokenKernel(KERNEL), TokenKernel(GRADIENT)
    small, uniform = (
        Attention(Linear(1e-9), Linear(), Linear(1.1), Linear(0.8)),
        Attention(Linear(1e-9), Linear(), Linear(1.1), Linear(0.8), scores="uniform"),
    )
    sampling = ScoreSampling(samples=4)
    np.testing.assert_allclose(
        small.forward(kernel, sampling).entries, uniform.forward(kernel, sampling).entries, rtol=1e-6
    )
    np.testing.assert_allclose(
        small.backward(kernel, gradient, sampling).entries,
        uniform.backward(kernel, gradient, sampling).entries,
        rtol=1e-6,
    )
    np.testing.assert_allclose(uniform.forward(kernel, sampling).entries, 1.1 * 0.8 * KERNEL.mean())


def test_score_paths_are_not_a_detail():
    """Without both score paths the gradient of attention with scores of order one is far too small."""
    kernel, gradient = TokenKernel(KERNEL), TokenKernel(GRADIENT)
    attention = Attention(Linear(), heads=4)
    total = attention.backward(kernel, gradient, ScoreSampling(2000)).mean_diagonal()
    through_values = Attention(Linear(), scores="uniform").backward(kernel, gradient, ScoreSampling(2)).mean_diagonal()
    assert total > 1.3 * through_values


@pytest.mark.parametrize("attention", [Attention(causal=True), Attention(head_dim=8, rotary=Rotary.standard(8))])
def test_tokens_that_are_told_apart_have_no_symmetric_state(attention):
    state = SymmetricKernel.of(1.0, 0.4, 8)
    with pytest.raises(ValueError, match="must be a TokenKernel, not a SymmetricKernel"):
        attention.forward(state, ScoreSampling())


def test_angles_of_other_tokens_are_refused():
    attention = Attention(head_dim=8, rotary=Rotary(positions=np.zeros((3, 2))))
    with pytest.raises(ValueError, match="positions of Rotary must be of 4 tokens, but are of 3"):
        attention.forward(TokenKernel(KERNEL), ScoreSampling())
