"""The numbers that the article's text works out, each from the library or from a matrix written here."""

import math

import numpy as np
import pytest
from scipy.stats import norm as gaussian

import asymptotes
import draw_initial
import tolerances
from criticality.phases import (
    ZOO,
    BlockStep,
    ResidualStep,
    amplification,
    classify,
    critical_line,
    fixed_point_of,
    layer_norm_critical_bias,
)
from criticality.pointwise import Pointwise, get_function
from criticality.theory import (
    MLP,
    Attention,
    LayerNorm,
    Linear,
    Network,
    NoNorm,
    PointwiseNorm,
    Sublayer,
    SymmetricKernel,
    make_norm,
    propagate,
    propagate_between,
    transformer,
)
from explorer import block_explorer, window_explorer
from pictures import kept_pictures
from plane import kept_panels
from stored import curves_of
from vision import network

STEPS = {
    "ln": ResidualStep(LayerNorm(epsilon=0.0)),
    "dyt": ResidualStep(make_norm("dyt", 1.0)),
    "none": ResidualStep(NoNorm()),
}


def test_doubling_the_depth():
    at = {name: amplification(step, [64, 128]) for name, step in STEPS.items()}
    assert at["ln"][1] - at["ln"][0] == pytest.approx(math.log(129 / 65))
    assert at["dyt"] == pytest.approx([8.28, 12.02], abs=0.005)
    assert at["none"] == pytest.approx([64 * math.log(2), 128 * math.log(2)])


def test_gains_of_layer_100():
    gains = {name: np.diff(amplification(step, [100, 101]))[0] for name, step in STEPS.items()}
    assert gains == pytest.approx({"ln": math.log(102 / 101), "dyt": 0.0562, "none": math.log(2)}, abs=1e-4)


def test_a_tenth_off_the_critical_line():
    tanh = get_function("tanh")
    critical = float(critical_line(tanh, np.array([0.3]))[0])
    assert critical == pytest.approx(1.40, abs=0.005)
    above, below = (fixed_point_of(tanh, (factor * critical) ** 2, 0.09) for factor in (1.1, 0.9))
    assert (above.chi > 1, below.chi < 1) == (True, True)
    assert [above.gradient_length, below.gradient_length] == pytest.approx([12.9, 10.6], abs=0.05)


def test_two_layers_that_average():
    """The table of the section on duality: by the library, and by the matrices ``1 + W M`` with ``E W Wᵀ = 1``."""
    tokens = 64
    layer = Sublayer(Attention(scores="uniform"), NoNorm())
    pairs = propagate_between(Network((layer, layer)), SymmetricKernel.of(1.0, 0.5, tokens)).log_apjn.values
    j = np.exp(pairs)
    mean = np.full((tokens, tokens), 1 / tokens)
    one = np.trace(np.eye(tokens) + mean @ mean.T) / tokens
    both = np.trace(np.eye(tokens) + 2 * mean @ mean.T + (mean @ mean) @ (mean @ mean).T) / tokens
    assert (j[0, 1], j[1, 2], j[0, 2]) == pytest.approx((one, one, both), rel=1e-12)
    assert [one, both / one, both] == pytest.approx([1.016, 1.031, 1.047], abs=5e-4)


def test_the_window():
    table = window_explorer(deviations=(0.5, 8.0, 64.0))
    dyt = table.sel(norm="dyt")
    assert [float(dyt.moment[1]), float(dyt.asymptote[1])] == pytest.approx([0.0663, 0.0665], abs=5e-5)
    assert float(table.inside[1]) == pytest.approx(1 - 2 * gaussian.cdf(-1 / 8.0), rel=1e-12)
    assert float(table.inside[1]) == pytest.approx(0.10, abs=0.005)
    for norm in ("dyt", "derf"):  # the area that the figure shades is the moment
        area = np.trapezoid(table.passed.sel(norm=norm), table.u, axis=-1)
        assert np.allclose(area, table.moment.sel(norm=norm), rtol=2e-3)
        assert float(table.asymptote.sel(norm=norm)[-1] / table.moment.sel(norm=norm)[-1]) == pytest.approx(1, abs=1e-3)


def test_what_the_leading_order_leaves_out():
    curves = {c["settings"]["alpha"]: c["values"] for c in curves_of("orders") if c["settings"]["norm"] == "dyt"}
    for alpha, gap in ((0.5, 2.1), (1.0, 0.6), (2.0, -3.0)):
        values, intersection = curves[alpha], 4 / 3
        assert values["logarithm"] == pytest.approx(
            intersection / (4 * math.pi) * (4 - alpha**2 * intersection), rel=1e-6
        )
        assert values["rate"] == pytest.approx(2 * alpha * intersection / math.sqrt(2 * math.pi), rel=1e-9)
        at_1000 = float(amplification(ResidualStep(make_norm("dyt", alpha)), [1000])[0])
        assert at_1000 - values["rate"] * math.sqrt(1000) == pytest.approx(gap, abs=0.06)
        rest = np.array(values["log_apjn"]) - values["rate"] * np.sqrt(asymptotes.ORDER_DEPTHS)
        slope = (rest[-1] - rest[-11]) / math.log(asymptotes.ORDER_DEPTHS[-1] / asymptotes.ORDER_DEPTHS[-11])
        assert slope == pytest.approx(values["logarithm"], abs=0.01)


def test_layer_norms_power_is_late():
    block = transformer(LayerNorm(epsilon=0.0), Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), 1)
    for depth, exponent in ((12, 0.59), (1000, 0.72), (400_000, 1.0)):
        low, high = round(0.9 * depth), round(1.1 * depth)
        log_j = amplification(BlockStep(block, 197, 0.3), [low, high])
        assert float(np.diff(log_j)[0] / math.log(high / low)) == pytest.approx(exponent, abs=0.01)


def test_examples_of_tails():
    quarter, two_thirds = (
        classify(ResidualStep(PointwiseNorm(Pointwise(ZOO[f"power{p}"])))) for p in ("0.25", "0.666667")
    )
    assert (quarter.kind, quarter.analytic[1]) == ("stretched", pytest.approx(1 / 3))
    assert (two_thirds.kind, two_thirds.analytic[1]) == ("power", pytest.approx(4, abs=1e-4))


def test_where_the_two_thirds_power_overtakes_tanh():
    """By every depth up to 400, at the same alpha and at the same slope at zero."""
    power, depths = ZOO["power0.666667"], np.arange(1, 400)
    tanh = amplification(STEPS["dyt"], depths)
    steep = 1 / float(power.derivative(np.zeros(1))[0])
    for alpha, first in ((1.0, 59), (steep, 187)):
        curve = amplification(ResidualStep(PointwiseNorm(Pointwise(power, alpha=alpha))), depths)
        assert depths[np.flatnonzero(curve >= tanh)[-1]] + 1 == first


def test_matched_alphas_are_those_of_an_independent_recursion():
    """``source_numbers.json``, ``match``: from a recursion in NumPy that is not the library's."""
    expected = {
        12: (0.697979521, 0.569828896, 2.86590331, 7.47122312),
        24: (0.524058874, 0.527390965, 2.26721828, 10.0218409),
        48: (0.390595175, 0.495577319, 1.72917675, 12.4575089),
    }
    curves = {c["settings"]["depth"]: c["values"] for c in curves_of("matching")}
    for depth, numbers in expected.items():
        found = [curves[depth][key] for key in ("alpha_by_j", "share_by_j", "alpha_by_k", "log_apjn_by_k")]
        assert found == pytest.approx(numbers, rel=1e-6)


def test_profiles_are_those_of_an_independent_recursion():
    variance, alpha, weight = 1.0, 0.7, 0.46**2
    log_j, q = 0.0, [1.0]
    for _ in range(128):
        s = alpha**2 * variance
        log_j += math.log1p(4 * alpha**2 * weight / math.pi / math.sqrt(1 + 4 * s))
        variance += weight * 2 / math.pi * math.asin(2 * s / (1 + 2 * s))
        q.append(variance)
    values = next(c["values"] for c in curves_of("profiles") if c["settings"]["alpha"] == alpha)
    assert values["q"] == pytest.approx(q, rel=1e-9)
    assert values["log_apjn"][0] == pytest.approx(log_j, rel=1e-9)
    assert values["crossover"] == pytest.approx(np.interp(1 / alpha**2, q, np.arange(129)), abs=0.1)


def test_susceptibilities():
    assert math.sqrt(layer_norm_critical_bias(get_function("erf"))) == pytest.approx(0.324, abs=5e-4)
    maps = {
        (c["settings"]["skip"], c["settings"]["layer_norm"]): np.array(c["values"]["log_chi"])
        for c in curves_of("susceptibility")
    }
    assert np.allclose(maps[1.0, True], 0, atol=1e-12)
    w, b = 20, 10
    weight, bias = asymptotes.SKIP_SIGMA_W[w] ** 2, asymptotes.SKIP_SIGMA_B[b] ** 2
    for skip in asymptotes.SKIPS:
        q = 1.0
        for _ in range(asymptotes.SKIP_DEPTH):
            chi = skip**2 + weight * 4 / math.pi / math.sqrt(1 + 4 * q)
            q = skip**2 * q + weight * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + bias
        assert maps[skip, False][b, w] == pytest.approx(math.log(chi), abs=1e-7)


def test_blocks_of_the_explorer():
    table = block_explorer(("ln", "dyt"), (0.5, 2.0), (0.5, 1.0), (16,), (0, 5))
    for norm, alpha, gain in (("ln", 2.0, 0.5), ("dyt", 0.5, 0.5), ("dyt", 2.0, 1.0)):
        made = LayerNorm(epsilon=0.0) if norm == "ln" else make_norm(norm, alpha)
        mlp = MLP(Pointwise("gelu"), down=Linear(2 * gain**2))
        network = transformer(made, Attention(output=Linear(gain**2)), mlp, 5)
        profile = propagate(network, SymmetricKernel.of(1.0, 0.3, 16)).sel(block=[0, 5])
        one = table.sel(norm=norm, alpha=alpha, gain=gain, tokens=16)
        assert float(one.log_apjn[1]) == pytest.approx(float(profile.log_apjn[0]), rel=1e-9)
        assert one.q.values == pytest.approx(profile.q.values, rel=1e-9)
        assert one.rho.values == pytest.approx(profile.correlation.values, rel=1e-9)


def test_powers_are_those_of_recursions_written_apart():
    """``T`` equivalent tokens, uniform attention, ReLU: kernels forward, and the first row of the product of backward maps."""
    s, m, tokens = 4.0**2, 2.0**2, asymptotes.POWER_TOKENS
    stored = {c["settings"]["attention"]: c["values"] for c in curves_of("powers")}
    values = {key: array[list(asymptotes.STRENGTHS).index(2.0)] for key, array in stored[4.0].items()}
    q, p, a, b, log_j = 1.0, 0.2, 1.0, 0.0, {}
    for block in range(1, 111):
        gain = s / (q * tokens)  # of the mean over tokens, each way
        a, b = a + gain * (a + b), b + (tokens - 1) * gain * (a + b)
        mean = (1 + (tokens - 1) * p / q) / tokens
        q, p = q + s * mean, p + s * mean
        rho = p / q
        kappa = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
        a, b = a * (1 + m / (2 * q)), b * (1 + m * (0.25 + math.asin(rho) / (2 * math.pi)) / q)
        q, p = q + m / 2, p + m * kappa
        log_j[block] = math.log(a)
    assert values["local"] == pytest.approx((log_j[110] - log_j[90]) / math.log(110 / 90), rel=1e-5)
    assert values["zeta"] == pytest.approx(1 / 9)
    c = 0.5
    for _ in range(4000):
        big = 2 / math.pi * math.asin(c)
        kappa = (math.sqrt(1 - big**2) + big * (math.pi - math.acos(big))) / (2 * math.pi)
        c = (s * big + m * kappa) / (s * big + m / 2)
    assert values["rate"] == pytest.approx((2 / math.pi * m) ** 2 / (m / 2 + s * 2 / math.pi * math.asin(c)), rel=1e-8)


def pairs_of(name):
    return [(c["settings"], c["values"]) for c in curves_of(name)]


def test_a_vit_of_128_blocks():
    """What the text quotes of the stored measurement, and the theory beside it computed anew."""
    curves = pairs_of("deep")
    for alpha, measured, error, theory, ratio, seen in (
        (None, 3.05, 0.04, 3.05, 3.7, 3.7),
        (0.5, 4.02, 0.02, 4.04, 2.3, 2.2),
        (1.1, 7.75, 0.05, 7.79, 1.73, 1.73),
        (1.9, 12.63, 0.09, 12.63, 1.6, 1.57),
    ):
        over = draw_initial.over_seeds(curves, alpha)
        assert [values[0] for values in over["log_apjn"]] == pytest.approx([measured, error], abs=0.006)
        assert math.exp(over["ratio"][0][0]) == pytest.approx(seen, abs=0.05)
        grown, expected = over["q"], draw_initial.in_theory(curves, alpha)["q"][-1]
        assert abs(grown[0][-1] - expected) < 0.02 * expected < 1.3 * grown[1][-1]
        described = network("ln" if alpha is None else "derf", alpha, 128)
        start = SymmetricKernel.of(1.0, 0.4, 197)
        apart, common = (float(propagate(described, start, probe=p).log_apjn[0]) for p in ("normal", "pooled"))
        assert apart == pytest.approx(theory, abs=0.006)
        assert math.exp(common - apart) == pytest.approx(ratio, abs=0.05)


def test_tolerances_lie_above_what_equivalent_tokens_show():
    """The excess that the theory page states, and that it depends neither on the norm nor on the scores."""
    curves = pairs_of("tolerances")
    assert len(curves) == len(tolerances.SETTINGS)
    found = np.array(
        [
            draw_initial.tolerance_gap(curves, norm, scores, width)
            for norm in tolerances.NORMS
            for scores in tolerances.SCORES
            for width in tolerances.PARTS
        ]
    )
    excess, weight = found[:, 0], found[:, 1] ** -2.0
    mean = np.average(excess, weights=weight)
    assert [mean, weight.sum() ** -0.5] == pytest.approx([0.10, 0.02], abs=0.006)
    assert np.sum(weight * (excess - mean) ** 2) < 24.7  # 11 degrees of freedom, one per cent
    assert np.all(excess + 2 * found[:, 1] < 0.48)


def test_plain_networks_train_where_they_are_critical():
    panel = kept_panels()[0][0]
    assert (panel.norm, panel.mu, panel.accuracy.shape, panel.rates.min()) == ("none", 0.0, (10, 10), 3)
    distance, trained = np.abs(panel.log_chi), panel.accuracy >= 0.5
    assert trained.sum() == 32
    assert distance[trained].max() < 0.24
    assert panel.accuracy[distance > 0.3].max() < 0.26
    found = panel.correlation()
    assert [found.value, found.low, found.high] == pytest.approx([-0.86, -0.90, -0.80], abs=0.006)
    with_skips = {(one.norm, one.mu): one for one in kept_panels()[0] if one.mu and np.isfinite(one.accuracy).all()}
    assert len(with_skips) == 4
    assert all(one.accuracy.shape == (5, 5) and one.rates.min() == 3 for one in with_skips.values())
    assert min(one.accuracy.min() for one in with_skips.values()) > 0.57
    full = with_skips["none", 1.0]
    assert [full.log_chi.min(), full.log_chi.max()] == pytest.approx([0.03, 0.19], abs=0.005)
    assert [full.accuracy.max(), full.accuracy.min()] == pytest.approx([0.83, 0.67], abs=0.005)
    for key, expected in {
        ("none", 1.0): (-0.93, -0.97, -0.81),
        ("none", 0.9): (-0.74, -0.92, -0.45),
        ("ln", 0.9): (-0.34, -0.72, 0.16),
    }.items():
        found = with_skips[key].correlation()
        assert [found.value, found.low, found.high] == pytest.approx(expected, abs=0.006)
    critical, other = with_skips["ln", 1.0], with_skips["ln", 0.9]
    assert np.abs(critical.log_chi).max() < 0.03
    assert critical.accuracy.min() > 0.83
    assert critical.accuracy.max() < 0.86
    lowest = np.argsort(other.accuracy, axis=None)[:5]
    assert set(lowest) == set(np.argsort(other.log_chi, axis=None)[:5])


def test_input_by_input():
    curves = [values for settings, values in pairs_of("folds") if settings["sigma"] == "0.55"]
    assert len(curves) == 24
    for name, ours, equivalent, noise in (
        ("LayerNorm", 1.016, 1.02, 1.011),
        ("Derf, α = 0.5", 1.004, 1.02, 1.005),
        ("Derf, α = 1", 1.014, 1.05, 1.011),
        ("Derf, α = 1.5", 1.016, 1.04, 1.014),
    ):
        medians = [np.median([draw_initial.gmfe(one[name], t) for one in curves]) for t in ("tokens", "equivalent")]
        assert medians == [pytest.approx(ours, abs=6e-4), pytest.approx(equivalent, abs=6e-3)]
        assert np.mean([draw_initial.noise(one[name]) for one in curves]) == pytest.approx(noise, abs=6e-4)


def test_where_the_vit_claims_difference_was_from():
    """Few heads and few drawn scores scatter; theory and measurement agree when there are enough of both."""
    curves = pairs_of("widths")
    scatter = {draws: np.std(values, ddof=1) for draws, values in draw_initial.drawn(curves).items()}
    assert [scatter[n] for n in (8, 32, 128, 512)] == pytest.approx([0.44, 0.17, 0.08, 0.02], abs=0.006)
    limit, uncertain = draw_initial.log_mean(draw_initial.drawn(curves)[512])
    mean, error = draw_initial.log_mean(draw_initial.measured(curves, 192, 3))
    assert [limit, mean, error] == pytest.approx([6.30, 6.31, 0.07], abs=0.006)
    assert abs(mean - limit) < 2 * math.hypot(error, uncertain)
    few, many = (np.std(draw_initial.measured(curves, 192, heads), ddof=1) for heads in (3, 12))
    assert [few, many] == pytest.approx([0.51, 0.33], abs=0.006)


def test_where_the_sources_reading_holds():
    by_title = {picture.asked.title.split(",")[0]: picture for picture in kept_pictures()}
    weights, warm_up = by_title["factor of the MLPs' weights"], by_title["steps of warm-up"]
    accuracy = dict(zip(weights.labels, 100 * weights.mean, strict=True))
    assert accuracy["DyT 0.8"][[0, -1]] == pytest.approx([81.3, 52.2], abs=0.05)
    assert weights.log_apjn[-1, [0, -1]] == pytest.approx([1.6, 17.6], abs=0.05)
    layer_norm = accuracy["LayerNorm"]
    assert [layer_norm.min(), layer_norm.max()] == pytest.approx([81.8, 82.4], abs=0.05)
    assert weights.log_apjn[0].max() == pytest.approx(7.4, abs=0.05)
    assert [alpha for _, alpha in weights.best_alphas()] == [0.8, 0.4, 0.4, 0.4, 0.4]
    assert weights.pairs(lambda a, b: not (a or b)) == (7, 8)
    rates = next(picture for picture in kept_pictures() if "no warm-up" in picture.asked.title)
    assert rates.pairs(lambda a, b: a != b) == (0, 5)
    assert 100 * rates.mean[:, -1] == pytest.approx([48, 29, 22], abs=0.5)
    assert [rates.asked.columns[0], rates.asked.columns[-1]] == [3e-4, 1e-2]
    long = next(picture for picture in kept_pictures() if "twice the steps" in picture.asked.title)
    assert 100 * long.mean[:, 0] == pytest.approx([83.7, 68.2, 74.2, 80.6, 83.0, 83.4], abs=0.05)
    assert (np.argsort(long.mean[:, 0]) == np.argsort(long.log_apjn[:, 0])).all()
    blocks = by_title["blocks"]
    assert blocks.best_alphas() == [(12, 0.8), (18, 0.6), (24, 0.4)]
    assert (blocks.mean.argmax(0) == 0).all()
    assert blocks.pairs(lambda a, b: not (a or b)) == (0, 1)
    assert warm_up.pairs(lambda a, b: a != b) == (0, 9)
    assert (warm_up.log_apjn.argmax(0) == 0).all()
    assert warm_up.log_apjn[0] == pytest.approx(2.1, abs=0.05)
    assert warm_up.pairs(lambda a, b: not (a or b)) == (2, 6)
    without, longest = (100 * warm_up.mean[:, column] for column in (0, -1))
    assert [without[1:].min(), without[1:].max()] == pytest.approx([69, 78], abs=0.5)
    assert [longest[1:].min(), longest[1:].max()] == pytest.approx([78, 79], abs=0.5)
    assert [without[0], longest[0]] == pytest.approx([79, 80], abs=0.5)
