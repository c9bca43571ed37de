"""Moments against mpmath, against closed forms written out here, and against each other."""

import json
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from criticality.pointwise import FUNCTIONS as BUILT_IN
from criticality.pointwise import Pointwise, get_function, moments, pointwise_function
from criticality.pointwise.hermite import tabulated_coefficients
from mpmath_reference import FUNCTIONS, one_point, two_point

TABLE = json.loads((Path(__file__).parents[1] / "data" / "two_point.json").read_text())["rows"]
SHIFTED = 0.29892020881072984
VARIANCES = (1e-12, 0.03, 1.0, 100.0, 1e6, 1e12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("q", VARIANCES)
def test_one_point_moments_agree_with_mpmath(name, q):
    function, derivative = FUNCTIONS[name]
    pointwise = Pointwise(name)
    assert float(pointwise.V(q)) == pytest.approx(float(one_point(lambda x: function(x) ** 2, q)), rel=1e-10)
    assert float(pointwise.D(q)) == pytest.approx(float(one_point(lambda x: derivative(x) ** 2, q)), rel=1e-10)


def _agrees(value, expected, scale):
    return abs(value - expected) <= 1e-10 * abs(expected) + 1e-15 * scale


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r['function']}-{r['q_a']:g}-{r['q_b']:g}-{r['rho']:g}")
@pytest.mark.parametrize("own", [False, True], ids=["built-in", "as a function of one's own"])
def test_two_point_moments_agree_with_mpmath(row, own):
    entry = BUILT_IN[row["function"]]
    pointwise = Pointwise(pointwise_function(entry.value, entry.derivative, name="mine") if own else entry)
    q_a, q_b, rho = row["q_a"], row["q_b"], row["rho"]
    scale = float(np.sqrt(pointwise.V(q_a) * pointwise.V(q_b)))
    assert _agrees(float(pointwise.C(q_a, q_b, rho)), row["C"], scale)
    assert _agrees(float(pointwise.Cd(q_a, q_b, rho)), row["Cd"], 1.0)


@pytest.mark.slow
def test_the_table_is_what_mpmath_says():
    """One row: mpmath takes three seconds for one of an algebraic function, ten and more for others."""
    row = next(row for row in TABLE if (row["function"], row["q_b"]) == ("isru", 0.01))
    value = two_point(FUNCTIONS[row["function"]][0], row["q_a"], row["q_b"], row["rho"])
    assert float(value) == pytest.approx(row["C"], rel=1e-12)


def test_gauss_hermite_fails_where_the_library_does_not():
    """The trap of the field: E tanh'(10 z)^2 by 100 Gauss-Hermite nodes is 88 per cent off."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    gauss_hermite = np.sum(weights * np.cosh(10 * nodes) ** -4.0) / np.sqrt(2 * np.pi)
    exact = float(one_point(lambda x: mp.sech(x) ** 4, 100.0))
    assert abs(gauss_hermite / exact - 1) == pytest.approx(0.88, abs=0.01)
    assert float(Pointwise("tanh").D(100.0)) == pytest.approx(exact, rel=1e-10)
    assert float(Pointwise("tanh", alpha=10).D(1.0)) == pytest.approx(100 * exact, rel=1e-10)


@pytest.mark.parametrize("rho", [-1.0, -0.7, 0.0, 0.3, 1.0])
def test_erf_is_the_arcsine_kernel(rho):
    q_a, q_b = 0.7, 3.0
    p = rho * np.sqrt(q_a * q_b)
    expected = 2 / np.pi * np.arcsin(2 * p / np.sqrt((1 + 2 * q_a) * (1 + 2 * q_b)))
    slope = 4 / np.pi / np.sqrt((1 + 2 * q_a) * (1 + 2 * q_b) - 4 * p * p)
    assert float(Pointwise("erf").C(q_a, q_b, rho)) == pytest.approx(expected, rel=1e-13)
    assert float(Pointwise("erf").Cd(q_a, q_b, rho)) == pytest.approx(slope, rel=1e-13)


@pytest.mark.parametrize("rho", [-1.0, -0.999, 0.0, 0.5, 1.0])
def test_relu_is_the_arc_cosine_kernel(rho):
    theta = np.arccos(rho)
    expected = np.sqrt(2.0 * 3.0) * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    assert float(Pointwise("relu").C(2.0, 3.0, rho)) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert float(Pointwise("relu").Cd(2.0, 3.0, rho)) == pytest.approx((np.pi - theta) / (2 * np.pi), abs=1e-9)


@pytest.mark.parametrize("rho", [-0.4, 0.3, 1.0])
def test_at_huge_variances_functions_are_their_limits(rho):
    """erf tends to the sign function, gelu and silu to relu; past 1e154 a variance has no square in float64."""
    for q in (1e100, 1e180, 1e200):
        for name in ("erf", "tanh"):
            same, other = Pointwise(name).equal(q, rho, False)
            assert (same, other) == pytest.approx((1.0, 2 / np.pi * np.arcsin(rho)), rel=1e-11)
            assert float(Pointwise(name).C(q, q, rho)) == pytest.approx(other, rel=1e-11)
        for name in ("gelu", "silu"):
            expected = Pointwise("relu").C(q, q, rho)
            assert float(Pointwise(name).C(q, q, rho)) == pytest.approx(float(expected), rel=1e-10)
            assert Pointwise(name).equal(q, rho, False)[1] == pytest.approx(float(expected), rel=1e-10)
            assert float(Pointwise(name).C(q, q / 4, rho)) == pytest.approx(float(expected) / 2, rel=1e-10)
    # E erf'(x)^2 = (4 / pi) / sqrt(1 + 4 q)
    assert float(Pointwise("erf").D(1e200)) == pytest.approx(2 / np.pi * 1e-100, rel=1e-13)


@pytest.mark.parametrize("name", ["tanh", "erf", "gelu", "gelu_tanh"])
def test_price_theorem_ties_both_two_point_moments(name):
    """dC/drho = sqrt(q_a q_b) Cd: the integral of one is the difference of the other."""
    pointwise = Pointwise(name, alpha=1.7, shift=0.3)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    low, high = -0.9, 0.8
    rho = (low + high) / 2 + (high - low) / 2 * nodes
    integral = np.sum(weights * pointwise.Cd(0.8, 2.5, rho)) * (high - low) / 2 * np.sqrt(0.8 * 2.5)
    difference = pointwise.C(0.8, 2.5, high) - pointwise.C(0.8, 2.5, low)
    assert float(difference) == pytest.approx(integral, rel=1e-10)


@pytest.mark.parametrize("q", [1e-6, 1.0, 1e4])
def test_shift_gamma_and_beta_enter_exactly(q):
    derf = Pointwise("erf", alpha=0.8, shift=0.6, gamma=1.3, beta=-0.2)
    affine = one_point(lambda u: (mp.mpf("1.3") * mp.erf(u) - mp.mpf("0.2")) ** 2, 0.64 * q, shift=0.6)
    slope = one_point(lambda u: (mp.mpf("1.3") * mp.mpf("0.8") * FUNCTIONS["erf"][1](u)) ** 2, 0.64 * q, shift=0.6)
    mean = one_point(lambda u: mp.mpf("1.3") * mp.erf(u) - mp.mpf("0.2"), 0.64 * q, shift=0.6)
    assert float(derf.V(q)) == pytest.approx(float(affine), rel=1e-10)
    assert float(derf.D(q)) == pytest.approx(float(slope), rel=1e-10)
    assert float(derf.mean(q)) == pytest.approx(float(mean), rel=1e-10)
    assert derf.both(q) == (derf.V(q), derf.D(q))


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_both_moments_from_one_quadrature_are_those_of_two(shift):
    q = np.array([0.0, 1e-6, 1.0, 1e6])
    for name in ("softsign", "expsign", "tanh"):
        pointwise = Pointwise(name, alpha=1.7, gamma=0.6, shift=shift)
        np.testing.assert_allclose(pointwise.both(q), (pointwise.V(q), pointwise.D(q)), rtol=1e-14)
    mine = Pointwise(pointwise_function(lambda x: x / (1 + x * x) ** 0.25, name="mine"))
    np.testing.assert_allclose(mine.both(q), (mine.V(q), mine.D(q)), rtol=1e-14)
    rough = Pointwise(pointwise_function(lambda x: np.sin(3 * x), name="rough"))
    with pytest.raises(ValueError, match="function 'rough' must be smooth"):
        rough.both(np.array([1.0, 1e6]))


def test_shifted_pairs_agree_with_mpmath():
    """``two_point(mp.tanh, 1.0, 2.0, 0.6, shift=0.5)`` of ``mpmath_reference``, which takes it ten seconds."""
    assert float(Pointwise("tanh", shift=0.5).C(1.0, 2.0, 0.6)) == pytest.approx(SHIFTED, rel=1e-10)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "relu"])
def test_derivative_by_differences_is_nearly_as_good(name):
    q = np.array(VARIANCES)
    without = Pointwise(pointwise_function(BUILT_IN[name].value, name="mine"))
    np.testing.assert_allclose(without.D(q), Pointwise(name).D(q), rtol=1e-10)


def test_kinked_functions_are_resolved_where_the_kink_is_declared():
    softsign = pointwise_function(lambda x: x / (1 + np.abs(x)), name="softsign", kinks=(0.0,))
    for q in (1e-3, 1.0, 1e6):
        value = one_point(lambda x: (x / (1 + abs(x))) ** 2, q)
        slope = one_point(lambda x: (1 + abs(x)) ** mp.mpf(-4), q)
        assert float(Pointwise(softsign).V(q)) == pytest.approx(float(value), rel=1e-10)
        assert float(Pointwise(softsign).D(q)) == pytest.approx(float(slope), rel=1e-8)


def test_kinked_pairs_are_good_to_a_millionth():
    relu = pointwise_function(lambda x: np.maximum(x, 0), lambda x: np.heaviside(x, 0.5), name="mine", kinks=(0.0,))
    rho = np.array([-0.9, -0.3, 0.5, 0.99])
    np.testing.assert_allclose(Pointwise(relu).C(1.0, 4.0, rho), Pointwise("relu").C(1.0, 4.0, rho), rtol=1e-6)
    np.testing.assert_allclose(Pointwise(relu).Cd(1.0, 4.0, rho), Pointwise("relu").Cd(1.0, 4.0, rho), rtol=1e-6)


@pytest.mark.parametrize(("rho", "orders"), [(0.3, {64}), (0.9, {64, 256}), (1 - 1e-6, {64})])
def test_equal_variances_of_a_kinked_function_ask_for_no_more_than_their_pair_needs(monkeypatch, rho, orders):
    """The second moments converge at no order, and of nearly alike inputs nested panels are the cheapest."""
    asked = set()

    def recorded(function, q, mean, kinks, order, tolerance):
        asked.add(order)
        return tabulated_coefficients(function, q, mean, kinks, order, tolerance)

    monkeypatch.setattr(moments, "tabulated_coefficients", recorded)
    softsign, q, same = Pointwise("softsign"), np.array([0.5, 0.7]), np.array([0, 1, 0, 1])
    for derivative, average in ((False, softsign.C), (True, softsign.Cd)):
        found = softsign.pairs(q, same, same, np.array([1.0, 1.0, rho, rho]), derivative, 1e-8)
        np.testing.assert_allclose(found, np.append(average(q, q, 1.0), average(q, q, rho)), rtol=1e-8)
    assert asked == orders


def test_what_the_quadrature_does_not_resolve_is_refused():
    sin = Pointwise(pointwise_function(np.sin, np.cos, name="sin"))
    assert float(sin.V(2.0)) == pytest.approx((1 - np.exp(-4.0)) / 2, rel=1e-12)
    with pytest.raises(ValueError, match=r"function 'sin' must be smooth .* alpha\^2 q = 1e\+06"):
        sin.V(1e6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pointwise("tanh", alpha=0.0), "alpha=0.0 of Pointwise must be a finite number above 0"),
        (lambda: Pointwise("tanh", alpha=float("nan")), "alpha=nan"),
        (lambda: Pointwise("tanh", gamma=float("inf")), "gamma=inf"),
        (lambda: Pointwise("tanhh"), "function 'tanhh' is unknown .did you mean 'tanh'.*allowed are arctan"),
        (lambda: Pointwise("tanh").V(-1.0), "q_a=-1.0 must be a finite variance"),
        (lambda: Pointwise("exproot").D(0.0), "q=0.0 must be above 0: the slope of 'exproot' is infinite at 0"),
        (lambda: Pointwise("power23_clip").D(0.0), "the slope of 'power23_clip' is infinite at 0"),
        (lambda: Pointwise("exproot").D(1.0), "must have a slope whose square has a finite mean, but at x = 0"),
        (lambda: Pointwise("tanh").C(1.0, 1.0, 1.5), r"rho=1.5 must be a correlation in \[-1, 1\]"),
        (lambda: Pointwise("tanh").C(1.0, 1.0, float("nan")), "rho=nan"),
        (lambda: pointwise_function(lambda x: 1.0, name="one"), "must keep the shape"),
        (lambda: pointwise_function(np.log, name="log"), "value of function 'log' must be finite, but is not at x"),
        (lambda: pointwise_function(np.tanh, kinks=(float("nan"),)), "kinks="),
        (lambda: get_function("no"), "function 'no' is unknown"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
