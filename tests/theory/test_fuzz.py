"""Random architectures: valid ones give finite, consistent results, invalid ones one sentence."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Attention,
    GatedMLP,
    HeadNorm,
    LayerNorm,
    Linear,
    Network,
    NoNorm,
    Parallel,
    PointwiseNorm,
    RMSNorm,
    Rotary,
    ScoreSampling,
    Sublayer,
    SymmetricKernel,
    TokenKernel,
    propagate,
)
from criticality.theory.propagation import propagated

FUNCTIONS = ["tanh", "erf", "arctan", "isru", "gelu", "silu", "relu", "identity"]
TOKENS = 6


def variance(rng):
    return float(rng.uniform(0.05, 2.0))


def norm(rng):
    kind = rng.integers(4)
    if kind == 0:
        return LayerNorm(1e-6, float(rng.uniform(0.5, 1.5)), float(rng.uniform(0, 0.3)))
    if kind == 1:
        return RMSNorm()
    if kind == 2:
        return NoNorm()
    shift = float(rng.choice([0.0, 0.3]))
    return PointwiseNorm(Pointwise(str(rng.choice(FUNCTIONS[:4])), float(rng.uniform(0.1, 3)), shift))


def attention(rng, symmetric):
    heads = int(rng.choice([2, 4, 8]))
    head_dim = [None, 8, 16][rng.integers(3)]
    told_apart = not symmetric and bool(rng.integers(2))
    causal = told_apart and bool(rng.integers(2))
    rotary = Rotary.standard(head_dim, 100.0, float(rng.choice([0.5, 1.0]))) if told_apart and head_dim else None
    qk_norm = HeadNorm(centred=bool(rng.integers(2))) if head_dim and rng.integers(2) else None
    return Attention(
        *(Linear(variance(rng), 0.2 * variance(rng) * int(rng.integers(2))) for _ in range(4)),
        heads=heads,
        key_value_heads=int(rng.choice([1, 2, heads])),
        scores=str(rng.choice(["gaussian", "gaussian", "uniform"])),
        head_dim=head_dim,
        causal=causal,
        window=int(rng.integers(1, 5)) if causal and rng.integers(2) else None,
        rotary=rotary,
        query_norm=qk_norm,
        key_norm=qk_norm,
        score_scale=float(rng.uniform(0.2, 1.5)),
    )


def branch(rng, symmetric, nested=False):
    kind = rng.integers(4 if nested else 5)
    function = Pointwise(str(rng.choice(FUNCTIONS)))
    if kind == 0:
        return Linear(variance(rng), 0.1 * variance(rng))
    if kind == 1:
        return MLP(function, Linear(variance(rng), 0.1 * variance(rng)), Linear(variance(rng), 0.1 * variance(rng)))
    if kind == 2:
        return GatedMLP(function, *(Linear(variance(rng), 0.1 * variance(rng)) for _ in range(3)))
    if kind == 3:
        return attention(rng, symmetric)
    return Parallel(tuple(branch(rng, symmetric, True) for _ in range(2)))


def sublayer(rng, symmetric):
    placement = str(rng.choice(["pre", "pre", "post", "sandwich"]))
    before = norm(rng)
    if isinstance(before, NoNorm):
        placement = "pre"
    skip = float(rng.uniform(0.5, 2)) if placement == "post" else 1.0
    return Sublayer(
        branch(rng, symmetric),
        before,
        float(rng.uniform(0.1, 1.0)),
        placement,
        RMSNorm() if placement == "sandwich" else NoNorm(),
        skip,
    )


def architecture(seed, symmetric):
    rng = np.random.default_rng(seed)
    return Network(tuple(sublayer(rng, symmetric) for _ in range(4)), 2, f"fuzz {seed}"), rng


def random_kernel(rng):
    x = rng.standard_normal((TOKENS, 10))
    return TokenKernel.of(float(rng.uniform(0.01, 3)) * x @ x.T / 10)


@pytest.mark.parametrize("seed", range(100))
def test_valid_architectures_are_finite_and_consistent(seed):
    network, rng = architecture(seed, symmetric=False)
    kernel = random_kernel(rng)
    whole = propagate(network, kernel, samples=4, seed=seed, keep_kernels=True)
    assert np.isfinite(whole.log_apjn).all()
    assert np.isfinite(whole.q).all()
    assert whole.sizes["block"] == 5
    # Product rule, exact for G: the trace at l is that of G pulled back sub-layer by sub-layer from any later point.
    sampling = ScoreSampling(4, seed)
    middle = TokenKernel(whole.backward_kernel.values[2] * math.exp(float(whole.log_apjn[2])))
    for layer in (1, 0):
        forward = TokenKernel(whole.kernel.values[layer])
        middle = network.sublayers[layer].backward(forward, middle, sampling.at(layer))
    assert math.log(middle.mean_diagonal()) == pytest.approx(float(whole.log_apjn[0]), rel=1e-9, abs=1e-9)
    # Both kernels stay kernels.
    for name in ("kernel", "backward_kernel"):
        matrix = whole[name].values[0 if name == "backward_kernel" else -1]
        assert np.linalg.eigvalsh(matrix).min() >= -1e-7 * np.abs(matrix).max()
    # The backward map is linear in G.
    first = TokenKernel(whole.kernel.values[0])
    one, two = random_kernel(rng), random_kernel(rng)
    back = [
        network.sublayers[0].backward(first, g, sampling).mean_diagonal()
        for g in (one, two, TokenKernel(one.entries + 2 * two.entries))
    ]
    linear = _sampled_linearly(network.sublayers[0].branch)
    assert back[2] == pytest.approx(back[0] + 2 * back[1], rel=0.8 if not linear else 1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_inputs_and_seeds_that_go_together_are_what_each_is_alone(seed):
    network, rng = architecture(seed, symmetric=False)
    kernels, seeds = [random_kernel(rng) for _ in range(3)], [seed, 50 + seed]
    for number, together in zip(seeds, propagated(network, kernels, seeds, samples=4), strict=True):
        alone = [propagate(network, kernel, samples=4, seed=number) for kernel in kernels]
        mean = logsumexp([one.log_apjn for one in alone], axis=0) - math.log(3)
        assert together["log_apjn"] == pytest.approx(mean, abs=1e-6)
        for name in ("q", "p", "correlation"):
            assert together[name] == pytest.approx(np.mean([one[name] for one in alone], axis=0), rel=1e-7, abs=1e-8)


def _sampled_linearly(b):
    """Score paths are sampled with a factor of G, so that one draw is linear in G only on average."""
    if isinstance(b, Parallel):
        return all(_sampled_linearly(part) for part in b.branches)
    return not (isinstance(b, Attention) and b.scores == "gaussian")


@pytest.mark.parametrize("seed", range(100))
def test_symmetric_states_are_dual(seed):
    """Without attention J(0 -> L) is the amplification of a small difference of inputs, forward through the kernels.

    Two inputs of correlation 1 - e, with norms that leave the length alone to first order: (q - p) grows by J.
    """
    rng = np.random.default_rng(1000 + seed)
    function = PointwiseNorm(Pointwise(str(rng.choice(FUNCTIONS[:4])), float(rng.uniform(0.1, 3))))
    layers = tuple(
        Sublayer(
            MLP(
                Pointwise(str(rng.choice(["tanh", "erf", "gelu", "silu"]))),
                Linear(variance(rng)),
                Linear(variance(rng)),
            )
            if rng.integers(2)
            else Linear(variance(rng)),
            function if rng.integers(2) else NoNorm(),
            float(rng.uniform(0.2, 1)),
        )
        for _ in range(4)
    )
    network = Network(layers)
    spread = 1e-6
    profile = propagate(network, SymmetricKernel.of(1.0, 1.0 - spread))
    grown = float(profile.q[-1] - profile.p[-1]) / spread
    assert math.log(grown) == pytest.approx(float(profile.log_apjn[0]), abs=2e-4)


def _bad(rng):
    """A random way to be wrong, and the word that the error must say."""
    x = float(rng.choice([-1.0, math.nan, math.inf, -1e-9]))
    below = int(rng.choice([0, -1, -7]))
    return [
        (lambda: Linear(x), "weight_variance"),
        (lambda: Linear(1.0, x), "bias_variance"),
        (lambda: MLP(Pointwise("gelu"), Linear(x)), "weight_variance"),
        (lambda: MLP(Pointwise("gelu"), ratio=x), "ratio"),
        (lambda: GatedMLP(Pointwise("silu"), Linear(), 1.0), "up=1.0 of GatedMLP must be a Linear"),
        (lambda: GatedMLP(Pointwise("silu"), ratio=x), "ratio"),
        (lambda: Attention(value=x), "of Attention must be a Linear"),
        (lambda: Attention(heads=below), "heads"),
        (lambda: Attention(head_dim=below), "head_dim"),
        (lambda: Attention(causal=True, window=below), "window"),
        (lambda: Attention(score_scale=math.nan), "score_scale"),
        (lambda: Attention(heads=5, key_value_heads=int(rng.integers(2, 5))), "key_value_heads"),
        (lambda: Attention(head_dim=4, rotary=Rotary.standard(8)), "rotary"),
        (lambda: Rotary.standard(8, base=-1.0), "base"),
        (lambda: HeadNorm(epsilon=x), "epsilon"),
        (lambda: LayerNorm(x), "epsilon"),
        (lambda: LayerNorm(gamma=math.nan), "gamma"),
        (lambda: Pointwise("tanh", alpha=x if not x > 0 else -x), "alpha"),
        (lambda: Pointwise(f"f{rng.integers(99)}"), "unknown"),
        (lambda: Sublayer(Linear(), scale=math.nan), "scale"),
        (lambda: Sublayer(Linear(), placement=f"p{rng.integers(9)}"), "placement"),
        (lambda: Network((Sublayer(Linear()),) * 3, 2), "sublayers_per_block"),
        (lambda: Parallel(()), "branches"),
        (lambda: SymmetricKernel.of(x if not x > 0 else -x), "q="),
        (lambda: SymmetricKernel.of(1.0, 1.5 + abs(float(rng.normal()))), "p="),
        (lambda: SymmetricKernel.of(1.0, 0.5, below), "tokens"),
        (lambda: TokenKernel.of(rng.standard_normal((3, 2))), "square"),
        (lambda: TokenKernel.of(-np.eye(3)), "semidefinite"),
        (lambda: ScoreSampling(int(rng.choice([0, -2, 3, 7]))), "samples"),
        (
            lambda: propagate(Network((Sublayer(Attention(causal=True)),)), SymmetricKernel.of(1.0, 0.5)),
            "TokenKernel",
        ),
    ]


@pytest.mark.parametrize("seed", range(300))
def test_invalid_architectures_are_refused_in_one_sentence(seed):
    rng = np.random.default_rng(seed)
    ways = _bad(rng)
    call, word = ways[seed % len(ways)]
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the word is checked below)
        call()
    message = str(error.value)
    assert word in message
    assert "\n" not in message
    assert len(message) < 300
