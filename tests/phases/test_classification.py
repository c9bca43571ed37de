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
from criticality.theory import PointwiseNorm, make_norm

EXPECTED = {
    "tanh": ("stretched", 0.5),
    "erf": ("stretched", 0.5),
    "satursin": ("stretched", 0.5),
    "linear_clip": ("stretched", 0.5),
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


@pytest.mark.parametrize("name", EXPECTED)
def test_classes(name):
    found = of(name)
    kind, exponent = EXPECTED[name]
    assert (found.kind, found.agrees) == (kind, True)
    assert found.analytic[1] == pytest.approx(exponent, rel=1e-6)
    assert found.exponent == pytest.approx(exponent, abs=0.04)
    assert found.interval[0] <= exponent * (1 + 1e-6)
    assert found.interval[1] >= exponent * (1 - 1e-6)


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


def test_small_alpha_is_exponential_for_long():
    """The crossover comes where alpha^2 K reaches one: at depth of order log(1/alpha^2) / alpha^2."""
    crossovers = [of("tanh", alpha).crossover_depth for alpha in (0.02, 0.1, 0.5)]
    assert crossovers[0] > 10 * crossovers[1] > 50 * crossovers[2]
    assert 0.2 < crossovers[1] * 0.01 / math.log(100) < 5


def test_a_wrong_tail_is_found_out(monkeypatch):
    from criticality.phases import classification

    wrong = tail_of(ZOO["power0.8"])
    monkeypatch.setattr(classification, "tail_of", lambda function: wrong)
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


@pytest.mark.parametrize("name", ZOO)
def test_derivatives_of_the_zoo(name):
    function = ZOO[name]
    x = np.concatenate([np.linspace(-5, -0.05, 40), np.linspace(0.05, 5, 40)])
    x = x[np.all([np.abs(x - kink) > 1e-3 for kink in (*function.kinks, 99.0)], axis=0)]
    slope = (function.value(x + 1e-6) - function.value(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(function.derivative(x), slope, rtol=1e-6, atol=1e-8)


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
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n\ndef root(x):\n    return x / (1 + x * x) ** 0.25\n\ndef kinked(x):\n    return x / (1 + np.abs(x))\n"
    )
    mine = json.loads(run("classify", "--function", f"{path}:root", "--json", "--out", tmp_path / "o.json").stdout)
    assert mine["class"] in ("power", "stretched")
    assert json.loads((tmp_path / "o.json").read_text())["class"] == mine["class"]
    for arguments, message in [
        (["--function", "nope"], "function 'nope' is unknown"),
        (["--function", f"{path}:none"], "must define 'none'"),
        (["--function", f"{path}:kinked"], "must be smooth at scale one away from its declared kinks"),
        (["--function", "/no.py:f"], "file '/no.py' must exist"),
        (["--function", "tanh", "--alpha", "-1"], "alpha=-1.0"),
        (["--function", "tanh", "--sigma-w", "nan"], "sigma-w=nan"),
    ]:
        result = run("classify", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.slow
def test_zoo(tmp_path):
    record = json.loads(run("zoo", "--alpha", "1", "--json", "--out", tmp_path).stdout)
    assert {row["function"] for row in record["rows"]} == set(ZOO)
    assert all(row["agrees"] for row in record["rows"])
    assert (tmp_path / "zoo.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "zoo.json").read_text()) == record
