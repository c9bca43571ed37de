"""The laws of blocks and layers against recursions written apart, and what ``classify`` prints of them."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.phases import (
    BlockStep,
    PowerLaw,
    ResidualStep,
    StretchedLaw,
    amplification,
    classify,
    law_of,
    transformer_map,
)
from criticality.phases.asymptotics import block_crossover_depth, power_law, saturated_correlation, stretched_law
from criticality.pointwise import Pointwise, get_function
from criticality.theory import (
    MLP,
    Attention,
    Linear,
    Network,
    NoNorm,
    Normed,
    Parallel,
    PointwiseNorm,
    Sublayer,
    make_norm,
    transformer,
)

RATIOS = [(0.09437184, 0.37748736), (1.50994944, 0.37748736), (0.09437184, 6.03979776)]
"""``(s_VO, m)``, ``zeta`` of 2/3, 1/9 and 0.97."""


def blocks(norm, value_output, mlp, tokens, rho0=0.03, scores="uniform"):
    attention = Attention(value=Linear(value_output), scores=scores)
    return BlockStep(transformer(norm, attention, MLP(Pointwise("relu"), Linear(mlp)), 1), tokens, rho0)


def layer_norm_modes(s, m, tokens, depths, rho0=0.03):
    """Logarithms of the growth of ``u - v`` and of ``u + (T-1) v`` from the last block to the first, exactly as ``J`` splits into
    them: written out for LayerNorm, uniform attention and ReLU MLP, the row of a product for each of both ends."""
    q, p, found = 1.0, rho0, []
    rows, logs = np.array([[1.0, -1 / (tokens - 1)], [1.0, 1.0]]).T, np.zeros(2)  # columns: the two ends
    matrix = np.eye(2)
    for layer in range(1, max(depths) + 1):
        mixed = s / q / tokens * np.array([[1.0, tokens - 1]] * 2)
        matrix = matrix @ (np.eye(2) + mixed)
        mean = s * (1 + (tokens - 1) * p / q) / tokens
        q, p = q + mean, p + mean
        rho = p / q
        matrix = matrix * np.array([1 + m / 2 / q, 1 + m * (0.25 + math.asin(rho) / (2 * math.pi)) / q])
        q, p = q + m / 2, p + m * (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
        if layer % 64 == 0 or layer in depths:
            size = np.abs(matrix[0]).max()
            logs, matrix = logs + math.log(size), matrix / size
        if layer in depths:
            found.append(np.log((matrix @ rows)[0]) + logs)
    return np.array(found).T


@pytest.mark.parametrize("tokens", [16, 197, 10_000])
@pytest.mark.parametrize(("value_output", "mlp"), RATIOS)
def test_two_modes_of_layer_norm_blocks(value_output, mlp, tokens):
    """Each mode has its own exponent, and ``J`` is ``(T-1)/T`` of the difference mode and ``1/T`` of the common one."""
    step = blocks(make_norm("ln", epsilon=0.0), value_output, mlp, tokens)
    law = power_law(step)
    assert law.exponent == pytest.approx(mlp / (mlp + 2 * value_output), abs=1e-9)
    assert law.common_exponent == pytest.approx(1.0, abs=1e-9)
    assert law.correlation == 1.0
    depths = [2_000, 20_000]
    difference, common = layer_norm_modes(value_output, mlp, tokens, depths)
    log_j = np.logaddexp(math.log1p(-1 / tokens) + difference, common - math.log(tokens))
    np.testing.assert_allclose(amplification(step, depths), log_j, atol=2e-6)
    # correlations come to 1 as L^-(1 - zeta), which is slow: for the exponents they start there
    near = layer_norm_modes(value_output, mlp, tokens, depths, rho0=1 - 1e-10)
    np.testing.assert_allclose(np.diff(near)[:, 0] / math.log(10), [law.exponent, 1.0], atol=2e-3)


@pytest.mark.parametrize(("value_output", "mlp"), RATIOS[:2])
def test_the_common_mode_takes_over(value_output, mlp):
    """Few tokens, far beyond the takeover, and many, far before it: the local exponent is that of ``(T-1) q^zeta + q``."""
    for tokens, near in ((10, True), (10**15, False)):
        step = blocks(make_norm("ln", epsilon=0.0), value_output, mlp, tokens, 0.999)
        law, depths = power_law(step), np.array([1e5, 1e6])
        slope = float(np.diff(amplification(step, depths))[0]) / math.log(10)
        q = depths * (mlp / 2 + value_output)
        expected = float(np.diff(np.log((tokens - 1) * q**law.exponent + q))[0]) / math.log(10)
        assert slope == pytest.approx(expected, abs=5e-3)
        assert (law.takeover_depth < 1e4) is near


def test_the_recursion_of_this_file_is_that_of_the_source():
    """``source_numbers.json``, attention weights doubled, exact T."""
    difference, common = layer_norm_modes(*RATIOS[1], 197, [12, 64, 128, 1000])
    log_j = np.logaddexp(math.log1p(-1 / 197) + difference, common - math.log(197))
    np.testing.assert_allclose(log_j, [1.02168706275, 2.20789236164, 2.81089035187, 4.7656352404], rtol=1e-10)


def test_the_local_exponents_at_finite_tokens():
    """``source.md``, 1.3.1, has 0.955, 0.997, 1.003: those of a forward pass at infinitely many tokens, 0.003 to 0.011 higher."""
    log_j = amplification(blocks(make_norm("ln"), *RATIOS[1], 197), [1e2, 1e3, 1e4, 1e5])
    np.testing.assert_allclose(np.diff(log_j) / math.log(10), [0.94444, 0.99099, 0.99829], atol=2e-5)


@pytest.mark.parametrize(("tokens", "scores"), [(16, "uniform"), (197, "gaussian"), (10_000, "uniform")])
def test_layer_norms_are_never_stretched(tokens, scores):
    for value_output, mlp in RATIOS[:2]:
        step = blocks(make_norm("ln"), value_output, mlp, tokens, scores=scores)
        found = classify(step.network, 1.0, rho0=0.03, tokens=tokens)
        assert (found.kind, found.analytic[0], found.agrees) == ("power", "power", True)


def test_a_power_law_that_is_left_behind_is_none():
    """What ``classify`` asks of the profile can fail: with the law of LayerNorm a bounded function is still stretched."""
    from criticality.phases import classification

    depths = np.unique(np.logspace(0, 9, 109).round())
    profile = amplification(ResidualStep(make_norm("dyt", 1.0)), depths)
    assert classification._read(depths, profile, 1.0)[0] == "stretched"


def test_correlations_short_of_one():
    """A steep tanh MLP tells tokens apart: both exponents are those of the maps at the correlation that the blocks come to."""
    norm = make_norm("ln", epsilon=0.0)
    network = transformer(
        norm, Attention(Linear(0), Linear(0), Linear(0.5), scores="uniform"), MLP(Pointwise("tanh"), Linear(9.0)), 1
    )
    law = power_law(BlockStep(network, 12, 0.3))
    tanh = Pointwise("tanh")
    value, slope = float(tanh.V(9.0)), 9 * float(tanh.D(9.0))
    rho = 0.3
    for _ in range(500):
        mean = 0.5 * (1 + 11 * rho) / 12
        rho = (mean + float(tanh.C(9.0, 9.0, rho))) / (mean + value)
    grown = 0.5 * (1 + 11 * rho) / 12 + value
    slopes = 9 * float(tanh.Cd(9.0, 9.0, rho))
    matrix = np.array([[0.5 / 12 + slope, 0.5 * 11 / 12], [0.5 / 12, 0.5 * 11 / 12 + slopes]])
    assert rho < 0.9
    assert law.correlation == pytest.approx(rho, abs=2e-4)  # of a variance of 10^4
    expected = np.sort(np.linalg.eigvals(matrix).real) / grown
    np.testing.assert_allclose((law.exponent, law.common_exponent), expected, rtol=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize(("value_output", "mlp"), RATIOS)
def test_stretched_blocks_in_closed_form(value_output, mlp, alpha):
    """``1/sqrt(lambda)`` and ``c*`` of Derf's closed forms, at so many tokens that ``1/T`` is nothing."""
    law = stretched_law(blocks(make_norm("derf", alpha), value_output, mlp, 10**9))
    c, p = saturated_correlation(value_output, mlp)
    closed = (mlp / 2 + value_output * p) / (2 * alpha / math.pi * mlp) ** 2
    assert law.scale == pytest.approx(closed, rel=1e-5)
    assert law.correlation == pytest.approx(c, abs=1e-6)


def test_attention_takes_the_logarithm_away():
    """Correlations relax as ``L^-kappa``, and with ``kappa`` below 1/2 that leaves ``log J`` of two inputs apart by ``L^(1/2 -
    kappa)``: the next order after the root of the depth is no logarithm with a coefficient of its own."""
    s, m = RATIOS[0]
    law = stretched_law(blocks(make_norm("derf", 1.0), s, m, 10**9))
    assert math.isnan(law.logarithm)

    def pull(c):
        p = 2 / math.pi * math.asin(c)
        kappa = (math.sqrt(1 - p * p) + p * (math.pi - math.acos(p))) / (2 * math.pi)
        return (s * p + m * kappa) - c * (s * p + m / 2)

    c, p = saturated_correlation(s, m)
    slope = (pull(c + 1e-5) - pull(c - 1e-5)) / 2e-5
    assert law.relaxation == pytest.approx(-slope / (s * p + m / 2), rel=1e-4)
    assert law.relaxation < 0.44
    depths = np.array([1e5, 1e6, 1e7])
    one, other = (amplification(blocks(make_norm("derf", 1.0), s, m, 197, rho0), depths) for rho0 in (0.0, 0.9))
    first, second = np.diff(one - other)
    assert second / first == pytest.approx(10 ** (0.5 - law.relaxation), rel=0.015)  # 1.16; of a logarithm it is 1


def test_blocks_without_mixing_have_both_orders():
    """An MLP of its own norm twice a block, 1/T of nothing: ``two orders`` of the recursion, as in test_asymptotics."""
    norm = PointwiseNorm(Pointwise("tanh", alpha=0.7))
    block = (Sublayer(MLP(Pointwise("relu"), Linear(1.2)), norm), Sublayer(MLP(Pointwise("relu"), Linear(0.5)), norm))
    step = BlockStep(Network(block, 2), 1)
    law = stretched_law(step)
    depths = np.array([1e4, 1e5, 1e6, 1e7])
    terms = np.stack([np.sqrt(depths), np.log(depths), np.ones(4), depths**-0.5], axis=1)
    rate, logarithm = np.linalg.solve(terms, amplification(step, depths))[:2]
    assert law.coefficient == pytest.approx(rate, rel=2e-5)
    assert law.logarithm == pytest.approx(logarithm, abs=3e-3)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_crossover_of_blocks(alpha):
    """Blocks until ``alpha^2 q = 1``, counted."""
    step = blocks(make_norm("derf", alpha), *RATIOS[0], 197)
    state, before, layer = step.start(1.0), 0.0, 0
    while alpha**2 * math.exp(state[0]) < 1:
        before, state, layer = math.exp(state[0]), state + step.change(state[:, None])[:, 0], layer + 1
    exact = layer - 1 + (alpha**-2 - before) / (math.exp(state[0]) - before)
    assert block_crossover_depth(step) == pytest.approx(exact, rel=2e-3)
    assert block_crossover_depth(step, q0=alpha**-2) == 0.0


def test_laws_of_layers():
    ln = law_of(ResidualStep(make_norm("ln"), 1.0, 1.0))
    assert ln == PowerLaw(0.5, 0.5)
    assert law_of(ResidualStep(PointwiseNorm(Pointwise(get_function("power0.8"))))).exponent == pytest.approx(16 / 3)
    assert law_of(ResidualStep(make_norm("none"), 3.0)).rate == pytest.approx(math.log(4))
    scaled = law_of(ResidualStep(PointwiseNorm(Pointwise("erf", alpha=0.5, gamma=2.0, beta=1.0)), 1.0, 0.3))
    plain = law_of(ResidualStep(PointwiseNorm(Pointwise("erf", alpha=0.5)), 4.0, 1.3))
    assert (scaled.coefficient, scaled.logarithm) == pytest.approx((plain.coefficient, plain.logarithm), rel=1e-12)
    assert isinstance(plain, StretchedLaw)


def test_classify_prints_the_law():
    run = CliRunner().invoke(main, ["classify", "--function", "tanh", "--alpha", "0.1", "--json"])
    found = json.loads(run.output)["asymptotics"]
    assert found["coefficient"] == pytest.approx(0.1 * 8 / (3 * math.sqrt(2 * math.pi)))
    assert found["logarithm"] == pytest.approx((4 / 3) / (4 * math.pi) * (4 - 0.01 * 4 / 3))
    assert found["lambda"] == pytest.approx(found["coefficient"] ** -2)
    assert found["crossover_depth"] > 300
    text = CliRunner().invoke(main, ["classify", "--function", "ln"]).output
    assert "asymptotics" in text
    assert "common_exponent" in text


@pytest.mark.parametrize("norm", [make_norm("ln", epsilon=0.0), make_norm("dyt", 0.5), NoNorm()])
def test_norms_of_parallel_branches_are_norms_of_the_stream(norm):
    """GPT-NeoX's branches have a norm each, GPT-J's share one: at infinite width these are one network."""
    branches = Attention(scores="uniform"), MLP(Pointwise("relu"), down=Linear(0.5))
    shared = Network((Sublayer(Parallel(branches), norm),))
    own = Network((Sublayer(Parallel(tuple(Normed(norm, branch) for branch in branches))),))
    first, second = (classify(network, rho0=0.3, tokens=16) for network in (shared, own))
    assert first == second
    assert first.agrees
    if isinstance(norm, PointwiseNorm):
        alphas = np.array([0.5, 1.0])
        assert np.array_equal(*(transformer_map(one, 5, alpha=alphas)[0] for one in (shared, own)))
