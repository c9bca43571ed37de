"""The class by the tail and by the profile, and that either can be wrong."""

import json
import math

import mpmath as mp
import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.phases import ZOO, ResidualStep, classify, tail_of, zoo_function
from criticality.pointwise import Pointwise, pointwise_function
from criticality.pointwise.quadrature import unresolved
from criticality.theory import (
    MLP,
    Attention,
    Linear,
    Network,
    PointwiseNorm,
    Sublayer,
    SymmetricKernel,
    make_norm,
    propagate,
    transformer,
)

EXPECTED = {
    "tanh": ("stretched", 0.5),
    "erf": ("stretched", 0.5),
    "satursin": ("stretched", 0.5),
    "linear_clip": ("stretched", 0.5),
    "cubsign": ("stretched", 0.5),
    "relsign": ("stretched", 0.5),
    "power23_clip": ("stretched", 0.5),
    "power0.25": ("stretched", 1 / 3),
    "power0.4": ("stretched", 1 / 6),
    "power0.6": ("power", 4.5),
    "power0.666667": ("power", 4.0),
    "power0.8": ("power", 16 / 3),
    "identity": ("exponential", 1.0),
    "silu": ("exponential", 1.0),
    "sin": ("exponential", 1.0),
}


def of(name, alpha=1.0):
    return classify(ResidualStep(PointwiseNorm(Pointwise(zoo_function(name), alpha=alpha))))


@pytest.mark.parametrize(("name", "coefficient"), [("tanh", 8 / (3 * math.sqrt(2 * math.pi))), ("erf", 4 / math.pi)])
def test_coefficients(name, coefficient):
    for alpha in (0.5, 2.0):
        found = of(name, alpha)
        assert found.analytic[2] == pytest.approx(alpha * coefficient, rel=1e-9)
        assert found.coefficient == pytest.approx(alpha * coefficient, rel=1e-4)


def test_layer_norm_is_a_power_law():
    found = classify(ResidualStep(make_norm("ln", epsilon=0.0), 2.0))
    assert (found.kind, found.agrees) == ("power", True)
    assert found.exponent == pytest.approx(1.0, abs=1e-5)
    half = classify(ResidualStep(make_norm("ln", epsilon=0.0), 1.0, 1.0))
    assert half.exponent == pytest.approx(0.5, abs=1e-4)
    assert half.agrees


@pytest.mark.parametrize(
    ("norm", "kind"), [("ln", "power"), ("derf", "stretched"), ("dyt", "stretched"), ("none", "exponential")]
)
def test_whole_networks(norm, kind):
    attention = Attention(scores="uniform" if norm == "none" else "gaussian")
    network = transformer(make_norm(norm), attention, MLP(Pointwise("gelu")), 3)
    found = classify(network, 1.0, rho0=0.3, tokens=64)
    assert (found.kind, found.analytic[0], found.agrees) == (kind, kind, True)
    profile = propagate(
        transformer(make_norm(norm), attention, MLP(Pointwise("gelu")), 48), SymmetricKernel.of(1, 0.3, 64)
    )
    assert found.log_apjn[48] == pytest.approx(float(profile.log_apjn[0]), rel=1e-6)


def test_one_bounded_norm_among_layer_norms_makes_it_stretched():
    sublayers = (Sublayer(Linear(), make_norm("ln")), Sublayer(Linear(), make_norm("dyt")))
    found = classify(Network(sublayers, 2))
    assert (found.kind, found.agrees) == ("stretched", True)
    unknown = classify(Network((Sublayer(Linear(), make_norm("ln"), placement="post"),)))
    assert (unknown.analytic, unknown.agrees) == (None, None)


def test_scores_without_a_norm_grow_without_bound():
    network = transformer(make_norm("none"), Attention(), MLP(Pointwise("gelu")), 1)
    with pytest.raises(ValueError, match="must have a finite susceptibility at every depth"):
        classify(network, 1.0, rho0=0.3, tokens=64)


def test_a_slope_that_is_not_square_integrable_has_no_apjn():
    """1 - exp(-sqrt(x)): E phi'^2 diverges at 0, so J is infinite at infinite width, at any depth."""
    found = of("exproot")
    assert (found.kind, found.log_apjn[12]) == ("divergent", math.inf)
    assert of("power23_clip").kind == "stretched"  # singular, but square integrable


@pytest.mark.parametrize("q", [1e-6, 0.3, 1.0, 40.0, 1e8])
def test_clipped_powers(q):
    function = Pointwise(ZOO["power23_clip"])
    density = lambda x: 2 * mp.exp(-x * x / (2 * q)) / mp.sqrt(2 * mp.pi * q)  # noqa: E731
    third = mp.mpf(1) / 3
    ends = sorted({mp.mpf(0), *(mp.mpf(1) * min(1, s * math.sqrt(q)) for s in (0.1, 1, 5, 12)), mp.mpf(1)})
    inner = mp.quad(lambda x: x ** (4 * third) * density(x), ends)
    slope = mp.quad(lambda t: 3 * t**2 * (4 * third * third) / t**2 * density(t**3), [end**third for end in ends])
    assert float(function.V(q)) == pytest.approx(float(inner + mp.erfc(1 / mp.sqrt(2 * q))), rel=1e-10)
    assert float(function.D(q)) == pytest.approx(float(slope), rel=1e-10)


def test_a_clipped_power_of_two_inputs():
    """Price's theorem: the slope of C in the correlation is q Cd."""
    function = Pointwise(ZOO["power23_clip"])
    less, more = function.C(2.0, 2.0, [0.299, 0.301])
    assert (more - less) / 0.002 == pytest.approx(2.0 * float(function.Cd(2.0, 2.0, 0.3)), rel=1e-5)


def test_functions_of_the_paper():
    """As their published code has them (github.com/zlab-princeton/Derf), at one point each."""
    x = np.array([0.7])
    for name, value in {
        "relsign": 0.7 / (math.sqrt(1.49) + 1),
        "smoothsign": 0.7 / 1.7,
        "exproot": 1 - math.exp(-math.sqrt(0.7)),
        "cubsign": 0.343 / 1.343,
        "arctan_scaled": 2 / math.pi * math.atan(0.7),
        "logquad_clip": math.log(1.49),
        "logsign_clip": math.log(1.7),
        "power23_clip": 0.7 ** (2 / 3),
        "saturlog": math.log(1.7) / (1 + math.log(1.7)),
    }.items():
        assert ZOO[name].value(x)[0] == pytest.approx(value, rel=1e-14)
        assert ZOO[name].value(-x)[0] == pytest.approx(-value, rel=1e-14)


def test_small_alpha_is_exponential_for_long():
    """The crossover comes where alpha^2 K reaches one: at depth of order log(1/alpha^2) / alpha^2."""
    crossovers = [of("tanh", alpha).crossover_depth for alpha in (0.02, 0.1, 0.5)]
    assert crossovers[0] > 10 * crossovers[1] > 50 * crossovers[2]
    assert 0.2 < crossovers[1] * 0.01 / math.log(100) < 5


def test_a_wrong_tail_is_found_out(monkeypatch):
    from criticality.phases.asymptotics import of_network

    wrong = tail_of(ZOO["power0.8"])
    monkeypatch.setattr(of_network, "tail_of", lambda function: wrong)
    assert of("tanh").agrees is False


def test_a_network_that_dies_is_decaying():
    assert classify(ResidualStep(make_norm("dyt"), 0.0, 1.0)).kind == "decaying"


@pytest.mark.parametrize("name", ["tanh", "erf", "arctan", "isru", "expsign", "softsign", "linear_clip", "power0.25"])
def test_slope_integrals(name):
    slope = {
        "tanh": lambda x: mp.sech(x) ** 4,
        "erf": lambda x: 4 / mp.pi * mp.exp(-2 * x * x),
        "arctan": lambda x: (1 + x * x) ** -2,
        "isru": lambda x: (1 + x * x) ** -3,
        "expsign": lambda x: mp.exp(-2 * x),
        "softsign": lambda x: (1 + x) ** -4,
        "linear_clip": lambda x: mp.mpf(1) if x < 1 else mp.mpf(0),
        "power0.25": lambda x: (1 + x) ** mp.mpf("-1.5") / 16,
    }[name]
    exact = 2 * mp.quad(slope, [0, 1, 4, 20, 1000, mp.inf] if name != "linear_clip" else [0, 1])
    assert tail_of(ZOO[name]).slope_integral == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_slow_exponential_growth_to_great_depth(alpha):
    """The variance passes every float long before depth 10^9; chi goes to 1 + alpha^2 / 2, as half of all neurons are linear."""
    found = classify(ResidualStep(PointwiseNorm(Pointwise("silu", alpha=alpha))))
    assert (found.kind, found.agrees) == ("exponential", True)
    assert found.coefficient == pytest.approx(np.log1p(alpha**2 / 2), rel=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_derivatives_of_the_zoo(name):
    function = ZOO[name]
    x = np.concatenate([np.linspace(-5, -0.05, 40), np.linspace(0.05, 5, 40)])
    x = x[np.all([np.abs(x - kink) > 1e-3 for kink in (*function.kinks, 99.0)], axis=0)]
    slope = (function.value(x + 1e-6) - function.value(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(function.derivative(x), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name, function in ZOO.items() if function.verified])
def test_the_quadrature_resolves_what_is_not_checked_again(name):
    deviations = 10.0 ** np.linspace(-6, 6, 121)
    for function in (ZOO[name].value, ZOO[name].derivative):
        assert not len(unresolved(function, deviations, 0.0, ZOO[name].kinks))


def test_sine_moments():
    sine = Pointwise(ZOO["sin"], alpha=0.7)
    z = np.linspace(-12, 12, 200_001)
    weights = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    for q in (1e-4, 1.0, 30.0):
        assert float(sine.V(q)) == pytest.approx(np.sum(weights * np.sin(0.7 * math.sqrt(q) * z) ** 2), rel=1e-8)
        assert float(sine.D(q)) == pytest.approx(0.49 * np.sum(weights * np.cos(0.7 * math.sqrt(q) * z) ** 2), rel=1e-8)
    assert float(sine.C(1.0, 2.0, -0.5)) == -float(sine.C(1.0, 2.0, 0.5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (pointwise_function(lambda x: x * np.exp(-x * x), name="hump"), "function 'hump' must not vanish at infinity"),
        (pointwise_function(lambda x: x**3, name="cube"), "must grow no faster than"),
    ],
)
def test_tails_that_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        tail_of(function)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_command_line(tmp_path):
    record = json.loads(run("classify", "--function", "tanh", "--alpha", 1, "--json").stdout)
    assert {"class", "exponent", "coefficient", "interval", "crossover_depth", "analytic", "agrees"} <= record.keys()
    assert record["class"] == "stretched"
    own = run("classify", "timm:vit_tiny_patch16_224", "--depth", 2, "--image-size", 32).stdout
    assert ["norm", "own"] in [line.split() for line in own.splitlines()]
    assert "None" not in own
    model = json.loads(run("classify", "timm:vit_tiny_patch16_224", "--norm", "derf", "--alpha", 0.5, "--json").stdout)
    assert (model["class"], model["agrees"], model["tokens"]) == ("stretched", True, 197)
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n\ndef root(x):\n    return x / (1 + x * x) ** 0.25\n\ndef stepped(x):\n    return np.sign(x)\n"
    )
    mine = json.loads(run("classify", "--function", f"{path}:root", "--json", "--out", tmp_path / "o.json").stdout)
    assert mine["class"] in ("power", "stretched")
    assert json.loads((tmp_path / "o.json").read_text())["class"] == mine["class"]
    for arguments, message in [
        ([], "MODEL=None and --function=None must be one of the two, not both and not none"),
        (["hf:gpt2", "--norm", "dyt", "--way", "exact"], "causal=True or rotary tells tokens apart"),
        (["--function", "nope"], "function 'nope' is unknown"),
        (["--function", f"{path}:none"], "must define 'none'"),
        (["--function", f"{path}:stepped"], "must be continuous, but jumps by 2 at x = 0"),
        (["--function", "/no.py:f"], "file '/no.py' must exist"),
        (["--function", "tanh", "--alpha", "-1"], "alpha=-1.0"),
        (["--function", "tanh", "--sigma-w", "nan"], "sigma-w=nan"),
    ]:
        result = run("classify", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.slow
def test_zoo(tmp_path):
    """Every function at alpha 1: as expected, by the tail and by the profile."""
    record = json.loads(run("zoo", "--alpha", "1", "--json", "--out", tmp_path).stdout)
    assert {row["function"] for row in record["rows"]} == set(ZOO)
    assert all(row["agrees"] for row in record["rows"])
    found = {row["function"]: row for row in record["rows"]}
    for name, (kind, exponent) in EXPECTED.items():
        row = found[name]
        assert row["class"] == kind, name
        assert row["analytic"][1] == pytest.approx(exponent, rel=1e-6), name
        assert row["exponent"] == pytest.approx(exponent, abs=0.04), name
        assert row["interval"][0] <= exponent * (1 + 1e-6), name
        assert row["interval"][1] >= exponent * (1 - 1e-6), name
    names = "tanh erf arctan isru satursin expsign cubsign relsign smoothsign exproot saturlog linear_clip logsign_clip"
    assert {*names.split(), "logquad_clip", "power23_clip"} < set(ZOO)
    assert (tmp_path / "zoo.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "zoo.json").read_text()) == record
