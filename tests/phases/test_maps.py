"""Grids of networks against networks one by one, and critical lines against what is known of them."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.phases import ResidualStep, amplification, amplification_map, critical_line, zoo_function
from criticality.phases.maps import MomentTable
from criticality.pointwise import FUNCTIONS, Pointwise
from criticality.theory import make_norm


@pytest.mark.parametrize("name", ["tanh", "erf", "gelu", "arctan"])
def test_tables_are_good_to_1e8(name):
    assert MomentTable(zoo_function(name), -10.0, 20.0).error() < 1e-8


def test_a_map_of_residual_networks_is_those_networks():
    alphas, weights = np.array([0.05, 0.7, 3.0]), np.array([0.25, 1.0, 4.0])
    log_j, q, _ = amplification_map(
        FUNCTIONS["tanh"], 500, weight_variance=weights[:, None], alpha=alphas[None, :], bias_variance=0.1
    )
    for i, weight in enumerate(weights):
        for j, alpha in enumerate(alphas):
            step = ResidualStep(make_norm("dyt", alpha), weight, 0.1)
            variance, total = 1.0, 0.0
            for _ in range(500):
                f, g = step.both(variance)
                variance, total = variance + f, total + g
            assert log_j[i, j] == pytest.approx(total, rel=1e-8)
            assert q[i, j] == pytest.approx(variance, rel=1e-8)
            assert log_j[i, j] == pytest.approx(float(amplification(step, [500])[0]), rel=1e-6)


def test_plain_networks_settle_at_their_fixed_points():
    """Ordered below, chaotic above the line: chi at the fixed point crosses one there."""
    bias = np.array([0.1, 0.3, 0.6])
    line = critical_line(FUNCTIONS["tanh"], bias)
    for factor, sign in ((0.9, -1), (1.1, 1)):
        _, _, log_chi = amplification_map(
            FUNCTIONS["tanh"], 400, weight_variance=(factor * line) ** 2, bias_variance=bias**2, skip=0.0
        )
        assert np.all(np.sign(log_chi) == sign)
    _, _, at_line = amplification_map(FUNCTIONS["tanh"], 4000, weight_variance=line**2, bias_variance=bias**2, skip=0.0)
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
        (lambda: amplification_map(FUNCTIONS["tanh"], 4, weight_variance=-1.0), "weight_variance=-1 must be finite"),
        (lambda: amplification_map(FUNCTIONS["tanh"], 4, alpha=0.0), "alpha=0 must be finite and above 0"),
        (lambda: critical_line(FUNCTIONS["tanh"], np.array([-1.0])), "bias_deviations must be finite numbers"),
        (lambda: critical_line(FUNCTIONS["identity"], np.array([0.5])), "must have a critical sigma_w for 'identity'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_command_line(network, tmp_path):
    arguments = [
        "phases",
        network,
        "--function",
        "erf",
        "--points",
        "12",
        "--depth",
        "30",
        "--json",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    values = np.array(record["log_chi" if network == "mlp" else "log_apjn"])
    assert values.shape == (12, 12)
    assert np.isfinite(values).all()
    assert json.loads((tmp_path / "phases.json").read_text()) == record
    assert (tmp_path / "phases.png").stat().st_size > 5000
    refused = CliRunner().invoke(main, ["phases", network, "--depth", "0"])
    assert refused.exit_code == 2
