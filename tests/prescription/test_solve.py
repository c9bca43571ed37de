"""Prescriptions by theory: targets are reached, closed forms agree, real models measure what was prescribed."""

import numpy as np
import pytest

from criticality.measurement import measure_ensemble
from criticality.models import ViTSpec
from criticality.pointwise import Pointwise
from criticality.prescription import apply_prescription, least_amplification, prescribe, trade_off
from criticality.prescription.kinds import KINDS
from criticality.prescription.solve import changed_network, scheduled_log_apjn, with_layer_norm
from criticality.theory import (
    MLP,
    Attention,
    Linear,
    SymmetricKernel,
    TokenKernel,
    make_norm,
    propagate,
    resnet,
    transformer,
)

TOKENS = SymmetricKernel.of(0.8, 0.2, 50)


def network(norm="dyt", alpha=None, depth=24):
    return transformer(make_norm(norm, alpha), Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), depth)


def log_j(net, inputs=TOKENS):
    return float(propagate(net, inputs).log_apjn[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["dyt", "derf"])
def test_targets_are_reached(kind, norm):
    net = network(norm)
    found = prescribe(net, TOKENS, 2.0, kind)
    assert found.log_apjn == pytest.approx(2.0, abs=0.011)
    assert log_j(changed_network(net, [TOKENS], kind, found.value)) == pytest.approx(found.log_apjn, abs=1e-9)
    assert found.log_apjn_before == pytest.approx(log_j(net))
    matched = prescribe(net, TOKENS, "preln", kind)
    assert matched.log_apjn == pytest.approx(log_j(with_layer_norm(net)), abs=0.011)


def test_with_layer_norm_is_the_network_with_layer_norm():
    assert log_j(with_layer_norm(network("derf", 0.3))) == pytest.approx(log_j(network("ln")), rel=1e-9)


def test_a_schedule_is_c_over_the_root_of_the_variance():
    net = resnet(make_norm("dyt"), 30)
    changed = changed_network(net, [SymmetricKernel.of(0.7)], "schedule", 1.3)
    q = propagate(changed, SymmetricKernel.of(0.7)).q.values
    alphas = [part.norm.pointwise.alpha for part in changed.sublayers]
    np.testing.assert_allclose(alphas, 1.3 / np.sqrt(q[:-1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("c", "depth", "weight", "q0"), [(1.0, 64, 1.0, 1.0), (0.3, 500, 2.0, 0.1), (4.0, 12, 0.5, 3.0)]
)
def test_the_closed_form_of_a_schedule(c, depth, weight, q0):
    net = changed_network(resnet(make_norm("derf"), depth, weight), [SymmetricKernel.of(q0)], "schedule", c)
    expected = log_j(net, SymmetricKernel.of(q0))
    assert scheduled_log_apjn(Pointwise("erf"), c, depth, weight, q0) == pytest.approx(expected, rel=1e-9)


def test_values_of_the_theory_page():
    """c = 1, sigma = 1: log J = 3.8 at depth 64 and 7.0 at 1024 (LayerNorm 4.2 and 6.9, constant alpha 8.3 and 34.7)."""
    assert scheduled_log_apjn(Pointwise("tanh"), 1.0, 64) == pytest.approx(3.8, abs=0.06)
    assert scheduled_log_apjn(Pointwise("tanh"), 1.0, 1024) == pytest.approx(7.0, abs=0.06)


def test_trade_off_rises():
    for kind in KINDS:
        rows = trade_off(network(depth=12), TOKENS, kind, [0.3, 0.6, 1.2])
        assert np.all(np.diff([row["log_apjn"] for row in rows]) > 0)
        assert np.all(np.diff([row["branch_share"] for row in rows]) > 0)


def test_least_amplification_is_least():
    net, share = network(depth=12), 0.9
    found = least_amplification(net, TOKENS, share)
    assert found.branch_share == pytest.approx(share, abs=1e-3)
    for factor in (0.5, 2.0):
        other = changed_network(net, [TOKENS], "constant", found.value * factor)
        scales = np.geomspace(0.2, 5, 60) * found.branch_scale
        rows = trade_off(other, TOKENS, "branch-scale", scales.tolist())
        at_share = np.interp(share, [row["branch_share"] for row in rows], [row["log_apjn"] for row in rows])
        assert at_share > found.log_apjn - 0.01


def test_token_kernels_and_causal_networks():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 64))
    inputs = [TokenKernel.of(a @ a.T / 64) for a in x]
    net = transformer(make_norm("dyt"), Attention(causal=True, head_dim=16), MLP(Pointwise("gelu")), 8)
    found = prescribe(net, inputs, 1.5, "schedule")
    assert found.log_apjn == pytest.approx(1.5, abs=0.011)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prescribe(network(), TOKENS, -1.0), "target=-1.0 must be a log J above 0"),
        (lambda: prescribe(network(), TOKENS, "ln"), "target='ln' must be a log J above 0, 'preln' or 'preln-tokens'"),
        (lambda: prescribe(network(), TOKENS, 1.0, "nope"), "kind='nope' must be one of"),
        (lambda: prescribe(network("ln"), TOKENS, 1.0, "constant"), "must have pointwise norms for an alpha to be set"),
        (lambda: prescribe(network(), TOKENS, 1e9, "constant"), "must be within reach of kind='constant'"),
        (lambda: least_amplification(network(), TOKENS, 1.5), "branch_share=1.5 must be between 0 and 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "init", "depth"), [("dyt", "own", 24), ("derf", "fan-in", 24), ("derf", "own", 24), ("dyt", "fan-in", 64)]
)
def test_prescribed_vits_measure_what_was_prescribed(norm, init, depth):
    description = ViTSpec(
        "vit_base_patch16_224", norm=norm, alpha=1.0, depth=depth, width=192, image_size=64, init=init
    )
    found = prescribe(*description.read(0), "preln", "schedule")

    def build(seed):
        model = description.build()
        apply_prescription(found, model)
        return model

    measured = measure_ensemble(build, description.inputs(), range(3), probes=2)
    miss = abs(float(measured.log_apjn[0]) - found.target)
    assert miss < 0.15 + 3 * float(measured.log_apjn_se[0])
    if init == "fan-in":  # there was something to cure
        untreated = measure_ensemble(lambda seed: description.build(), description.inputs(), [0])
        assert float(untreated.log_apjn[0]) > found.target + 0.5
