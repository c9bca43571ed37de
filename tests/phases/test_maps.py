"""Grids of networks against networks one by one, and critical lines against what is known of them."""

import io
import json
import math

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.phases import (
    ResidualStep,
    amplification,
    amplification_map,
    critical_line,
    exponents_map,
    fixed_point_of,
    transformer_map,
    zoo_function,
)
from criticality.phases.tables import MomentTable
from criticality.pointwise import FUNCTIONS, Pointwise
from criticality.reports.figures import STYLE, map_figure
from criticality.theory import (
    MLP,
    Attention,
    LayerNorm,
    Linear,
    SymmetricKernel,
    collapse_exponents,
    make_norm,
    propagate,
    transformer,
)
from criticality.theory.network import scale_weights


@pytest.mark.parametrize("name", ["tanh", "erf", "gelu", "arctan"])
def test_tables_are_good_to_1e8(name):
    assert MomentTable(zoo_function(name), -10.0, 20.0).error() < 1e-8


def test_a_map_of_residual_networks_is_those_networks():
    alphas, weights = np.array([0.05, 0.7, 3.0]), np.array([0.25, 1.0, 4.0])
    log_j, q, _, _ = amplification_map(
        FUNCTIONS["tanh"], 500, weight_variance=weights[:, None], alpha=alphas[None, :], bias_variance=0.1
    )
    for i, weight in enumerate(weights):
        for j, alpha in enumerate(alphas):
            step = ResidualStep(make_norm("dyt", alpha), weight, 0.1)
            variance, total = 1.0, 0.0
            for _ in range(500):
                grown, gain = step.change(np.array([[math.log(variance)], [0.0]]))[:, 0]
                variance, total = variance * math.exp(grown), total + gain
            assert log_j[i, j] == pytest.approx(total, rel=1e-8)
            assert q[i, j] == pytest.approx(variance, rel=1e-8)
            assert log_j[i, j] == pytest.approx(float(amplification(step, [500])[0]), rel=1e-6)


@pytest.mark.parametrize("across_a_critical_line", [False, True])
def test_a_plane_is_the_networks_at_its_places(across_a_critical_line):
    """Interpolated between nodes, and halved where it bends, against networks at scattered places, which are run one by one."""
    rows, columns = np.random.default_rng(0).integers(90, size=(2, 200))
    x, y = np.geomspace(0.4, 3, 90), np.geomspace(0.05, 1.5, 90)
    given = {"weight_variance": x**2, "alpha": y[:, None]}
    if across_a_critical_line:
        given = {"weight_variance": x**2, "bias_variance": y[:, None] ** 2, "skip": 0.0}
    plane = amplification_map(FUNCTIONS["tanh"], 300, **given)
    scattered = {name: np.broadcast_to(values, (90, 90))[rows, columns] for name, values in given.items()}
    alone = amplification_map(FUNCTIONS["tanh"], 300, **scattered)
    assert alone.error == 0
    assert 0 < plane.error < 1e-8
    distance = np.abs(plane.log_apjn[rows, columns] - alone.log_apjn) / (1 + np.abs(alone.log_apjn))
    assert distance.max() < 5e-8
    np.testing.assert_allclose(plane.q[rows, columns], alone.q, rtol=1e-8)
    np.testing.assert_allclose(plane.log_chi[rows, columns], alone.log_chi, atol=1e-8)


def test_arrays_of_equal_numbers_are_constants():
    constant = amplification_map(FUNCTIONS["tanh"], 50, weight_variance=1.3, alpha=np.linspace(0.5, 2, 40), q0=0.7)
    given = {"weight_variance": np.full((2, 1), 1.3), "skip": np.ones(40), "q0": np.full((2, 40), 0.7)}
    plane = amplification_map(FUNCTIONS["tanh"], 50, alpha=np.linspace(0.5, 2, 40), **given)
    np.testing.assert_allclose(plane.log_apjn, np.broadcast_to(constant.log_apjn, (2, 40)), rtol=1e-8)


def test_one_parameter_that_varies_is_interpolated_along_a_line():
    """Of ReLU in closed form: ``q = J = (1 + sigma_w^2 / 2)^depth``, far beyond the table of its moments."""
    weight = (np.linspace(0.5, 3, 70) * np.linspace(0.1, 1, 70)[:, None]) ** 2
    plane = amplification_map(FUNCTIONS["relu"], 200, weight_variance=weight)
    assert 0 < plane.error < 1e-10
    np.testing.assert_allclose(plane.log_apjn, 200 * np.log1p(weight / 2), rtol=1e-9)
    np.testing.assert_allclose(np.log(plane.q), 200 * np.log1p(weight / 2), rtol=1e-9)


def test_plain_networks_settle_at_their_fixed_points():
    """Ordered below, chaotic above the line: chi at the fixed point crosses one there."""
    bias = np.array([0.1, 0.3, 0.6])
    line = critical_line(FUNCTIONS["tanh"], bias)
    for factor, sign in ((0.9, -1), (1.1, 1)):
        log_chi = amplification_map(
            FUNCTIONS["tanh"], 400, weight_variance=(factor * line) ** 2, bias_variance=bias**2, skip=0.0
        ).log_chi
        assert np.all(np.sign(log_chi) == sign)
    at_line = amplification_map(
        FUNCTIONS["tanh"], 4000, weight_variance=line**2, bias_variance=bias**2, skip=0.0
    ).log_chi
    np.testing.assert_allclose(at_line, 0.0, atol=2e-3)


def test_known_points_of_critical_lines():
    """tanh and erf without bias: sigma_w = 1 / phi'(0); tanh at sigma_b^2 = 0.05: sigma_w^2 = 1.7603 (Xiao et al. 2018)."""
    assert critical_line(FUNCTIONS["tanh"], np.array([0.0]))[0] == pytest.approx(1.0, abs=1e-9)
    assert critical_line(FUNCTIONS["erf"], np.array([0.0]))[0] == pytest.approx(math.sqrt(math.pi) / 2, abs=1e-9)
    assert critical_line(FUNCTIONS["tanh"], np.array([0.0]), alpha=0.5)[0] == pytest.approx(2.0, abs=1e-9)
    assert critical_line(FUNCTIONS["tanh"], np.sqrt([0.05]))[0] ** 2 == pytest.approx(1.7603, abs=2e-3)


def test_the_line_solves_its_equations():
    bias = np.linspace(0.05, 1.5, 7)
    line = critical_line(FUNCTIONS["erf"], bias)
    erf = Pointwise("erf")
    for sigma_b, sigma_w in zip(bias, line, strict=True):
        q = 1.0
        for _ in range(20_000):
            q = sigma_w**2 * float(erf.equal(q, 1.0, False)[0]) + sigma_b**2
        assert sigma_w**2 * float(erf.D(q)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: amplification_map(FUNCTIONS["tanh"], 0), "depth=0 must be a whole number"),
        (
            lambda: amplification_map(FUNCTIONS["tanh"], 4, weight_variance=-1.0),
            "weight_variance=-1.0 must be a finite number",
        ),
        (lambda: amplification_map(FUNCTIONS["tanh"], 4, alpha=0.0), "alpha=0.0 must be a finite number above 1e-12"),
        (
            lambda: critical_line(FUNCTIONS["tanh"], np.array([-1.0])),
            "bias_deviations=-1.0 must be a finite number, 0 or above",
        ),
        (lambda: critical_line(FUNCTIONS["identity"], np.array([0.5])), "must have a critical sigma_w for 'identity'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("network", "value"), [("mlp", "log_chi"), ("resnet", "log_apjn"), ("block", "gradient_exponent")]
)
def test_command_line(network, value, tmp_path):
    arguments = [
        "phases",
        network,
        "--function",
        "erf",
        "--points",
        "12",
        "--json",
        "--out",
        str(tmp_path),
    ] + ["--depth", "30"] * (network != "block")  # whose exponents are per block
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    values = np.array(record[value])
    assert values.shape == (12, 12)
    assert np.isfinite(values).all()
    assert json.loads((tmp_path / "phases.json").read_text()) == record
    assert (tmp_path / "phases.png").stat().st_size > 5000
    refused = CliRunner().invoke(main, ["phases", network, "--depth", "0"])
    assert refused.exit_code == 2


def test_a_long_title_of_a_map_stays_on_the_page():
    figure = map_figure(np.arange(3), np.arange(3), np.eye(3), "x", "y", "value", title="phases of a function " * 4)
    with mpl.rc_context(STYLE):
        figure.savefig(io.BytesIO())
    assert figure.bbox.containsx(figure.axes[0].title.get_window_extent().x0)


def vit(alpha=1.0, depth=1):
    return transformer(make_norm("derf", alpha), Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), depth)


def test_a_map_of_transformers_is_those_transformers():
    alphas = np.array([0.1, 0.5, 1.7])
    by_depth, exact = transformer_map(vit(), 40, alpha=alphas, tokens=50, rho0=0.3)
    assert exact == 0.0
    gains = np.linspace(0.6, 1.4, 5)
    by_gain, error = transformer_map(vit(0.3), 40, alpha=alphas, gain=gains, tokens=50, rho0=0.3, nodes=20)
    for i, alpha in enumerate(alphas):
        inputs = SymmetricKernel.of(1.0, 0.3, 50)
        for depth in (1, 7, 40):
            log_j = float(propagate(vit(alpha, depth), inputs).log_apjn[0])
            assert by_depth[depth - 1, i] == pytest.approx(log_j, rel=1e-6)
        for j, gain in enumerate(gains):
            log_j = float(propagate(scale_weights(vit(alpha, 40), float(gain)), inputs).log_apjn[0])
            assert abs(by_gain[j, i] - log_j) < 2 * error * (1 + log_j) + 1e-6
    assert 0 < error < 1e-3


def test_an_interpolation_that_fails_says_so():
    """Beyond condensation log J is not smooth in the gain: the error that is stated is large, and is the true one."""
    _, error = transformer_map(
        vit(), 200, alpha=np.array([0.5, 1.0]), gain=np.array([0.5, 3.0]), tokens=50, rho0=0.3, nodes=12
    )
    assert error > 0.01


def test_fixed_points():
    """Ordered, critical and chaotic tanh networks; lengths from the approach itself."""
    tanh = zoo_function("tanh")
    dead = fixed_point_of(tanh, 0.5, 0.0)
    assert (dead.q, dead.chi, dead.rho) == (0.0, pytest.approx(0.5), 1.0)
    critical = fixed_point_of(tanh, 1.0, 0.0)
    assert (critical.q, critical.chi, critical.gradient_length) == (0.0, 1.0, math.inf)
    odd = fixed_point_of(tanh, 4.0, 0.0)
    assert odd.chi > 1
    assert odd.rho == pytest.approx(0.0, abs=1e-9)
    chaotic = fixed_point_of(tanh, 2.5, 0.05)
    assert chaotic.chi > 1 > chaotic.rho
    pointwise, q, rho = Pointwise("tanh"), 1.5, 0.9
    distances = []
    for _ in range(200):
        rho = (2.5 * float(pointwise.C(q, q, rho)) + 0.05) / (2.5 * float(pointwise.V(q)) + 0.05)
        q = 2.5 * float(pointwise.V(q)) + 0.05
        distances.append(abs(rho - chaotic.rho))
    assert q == pytest.approx(chaotic.q, rel=1e-12)
    assert 10 / math.log(distances[149] / distances[159]) == pytest.approx(chaotic.correlation_length, rel=0.01)
    line = float(critical_line(tanh, np.array([0.2]))[0])
    near = [fixed_point_of(tanh, (line * f) ** 2, 0.04).gradient_length for f in (0.99, 0.999)]
    assert near[1] > 5 * near[0] > 50
    with pytest.raises(ValueError, match=r"weight_variance=2.0 must leave a finite variance"):
        fixed_point_of(zoo_function("identity"), 2.0, 0.1)


def test_layer_norm_has_maps_too():
    log_j = amplification_map(LayerNorm(epsilon=0.0), 100, weight_variance=np.array([0.5, 2.0])).log_apjn
    np.testing.assert_allclose(log_j, np.log1p(100 * np.array([0.5, 2.0])), rtol=1e-10)


@pytest.mark.parametrize(
    ("network", "over"),
    [
        ("resnet", "sigma_w,skip"),
        ("resnet", "sigma_w,scale"),
        ("transformer", "alpha,depth"),
        ("transformer", "alpha,gain"),
    ],
)
def test_every_map_is_drawn(network, over, tmp_path):
    command = ["phases", network, "--over", over, "--function", "erf", "--depth", "12", "--points", "9", "--json"]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    record = json.loads(result.stdout)
    assert np.isfinite(record["log_apjn"]).all()
    assert (tmp_path / "phases.png").stat().st_size > 5_000


def test_maps_that_do_not_exist_are_refused():
    for arguments, message in [
        (["mlp", "--over", "alpha,depth"], "--over='alpha,depth' must be one of 'sigma_w,sigma_b'"),
        (["mlp", "--function", "ln"], "must be a pointwise function"),
        (["transformer", "--function", "ln"], "must be a pointwise function"),
    ]:
        result = CliRunner().invoke(main, ["phases", *arguments])
        assert result.exit_code == 2
        assert message in result.stderr
    with pytest.raises(ValueError, match="must be pre-norm with pointwise norms of one alpha"):
        transformer_map(
            transformer(make_norm("ln"), Attention(), MLP(Pointwise("gelu")), 1), 3, alpha=np.array([1.0, 2.0])
        )


def test_exponents_of_transformers_are_those_of_each_block():
    """``collapse_exponents`` of the block itself, at the variance that the network has before it."""
    attention, mlp = Attention(output=Linear(0.7)), MLP(Pointwise("gelu"), down=Linear(2.0))
    alphas, depth = np.array([0.3, 1.0, 2.5]), 4
    angle, gradient = exponents_map(
        transformer(make_norm("dyt"), attention, mlp, 1), depth, alpha=alphas, tokens=20, q0=0.8, rho0=0.3
    )
    for number, alpha in enumerate(alphas):
        network = transformer(make_norm("dyt", alpha), attention, mlp, depth)
        q = propagate(network, SymmetricKernel.of(0.8, 0.24, 20)).q.values[::2]
        for layer in range(depth):
            expected = collapse_exponents(network.last_block, q[layer], 20)
            assert (angle[layer, number], gradient[layer, number]) == pytest.approx(expected, abs=1e-9)


def test_phases_print_both_exponents():
    run = CliRunner().invoke(main, ["phases", "transformer", "--depth", "6", "--points", "4"])
    heads = run.stdout.splitlines()[0] if run.stdout.splitlines()[0].strip() else run.stdout.splitlines()[1]
    assert "lambda_a depth=6" in heads
    assert "lambda_g depth=6" in heads
    text = CliRunner().invoke(main, ["phases", "block", "--points", "4"]).stdout
    assert text.count("lambda_g weight=") == text.count("lambda_a weight=") == 3
    found = json.loads(
        CliRunner().invoke(main, ["phases", "transformer", "--depth", "6", "--points", "4", "--json"]).stdout
    )
    assert np.shape(found["gradient_exponent"]) == np.shape(found["log_apjn"]) == (6, 4)
    steps = np.diff(np.array(found["log_apjn"]), axis=0)[-1]
    assert np.all(steps < np.array(found["gradient_exponent"])[-1])  # independent gradients grow less than common ones
