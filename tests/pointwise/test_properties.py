"""What holds for the moments of every function, over random arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criticality.pointwise import FUNCTIONS, Pointwise

names = st.sampled_from(sorted(FUNCTIONS))
monotone = st.sampled_from(["tanh", "erf", "arctan", "isru", "relu", "identity"])
variances = st.floats(-6, 6).map(lambda e: 10.0**e)
correlations = st.floats(-1, 1)
alphas = st.floats(-1.5, 1).map(lambda e: 10.0**e)


@given(names, variances, variances, correlations)
def test_pairs_are_symmetric(name, q_a, q_b, rho):
    pointwise = Pointwise(name)
    scale = np.sqrt(pointwise.V(q_a) * pointwise.V(q_b))
    assert float(pointwise.C(q_a, q_b, rho)) == pytest.approx(float(pointwise.C(q_b, q_a, rho)), abs=1e-11 * scale)
    assert float(pointwise.Cd(q_a, q_b, rho)) == pytest.approx(float(pointwise.Cd(q_b, q_a, rho)), rel=1e-10, abs=1e-12)


@given(names, variances, variances, correlations)
def test_cauchy_schwarz(name, q_a, q_b, rho):
    pointwise = Pointwise(name)
    assert abs(pointwise.C(q_a, q_b, rho)) <= np.sqrt(pointwise.V(q_a) * pointwise.V(q_b)) * (1 + 1e-11)
    assert abs(pointwise.Cd(q_a, q_b, rho)) <= np.sqrt(pointwise.D(q_a) * pointwise.D(q_b)) * (1 + 1e-11)


@given(names, variances)
def test_full_correlation_is_the_second_moment(name, q):
    pointwise = Pointwise(name)
    nearly = pointwise.C(q, q, np.nextafter(1.0, 0.0))
    assert float(pointwise.C(q, q, 1.0)) == float(pointwise.V(q))
    assert float(nearly) == pytest.approx(float(pointwise.V(q)), rel=1e-6)


@given(monotone, variances, variances, st.lists(correlations, min_size=2, max_size=6))
def test_monotone_functions_have_monotone_kernels(name, q_a, q_b, rho):
    pointwise = Pointwise(name)
    values = pointwise.C(q_a, q_b, np.sort(rho))
    assert np.all(np.diff(values) >= -1e-11 * np.sqrt(pointwise.V(q_a) * pointwise.V(q_b)))


@given(names, alphas, variances, variances, correlations)
def test_alpha_only_rescales_the_variance(name, alpha, q_a, q_b, rho):
    scaled, plain = Pointwise(name, alpha=alpha), Pointwise(name)
    s_a, s_b = alpha**2 * q_a, alpha**2 * q_b
    scale = np.sqrt(plain.V(s_a) * plain.V(s_b))
    assert float(scaled.C(q_a, q_b, rho)) == pytest.approx(float(plain.C(s_a, s_b, rho)), abs=1e-11 * scale)
    assert float(scaled.D(q_a)) == pytest.approx(alpha**2 * float(plain.D(s_a)), rel=1e-11)


@given(names, variances, variances, correlations)
def test_looser_tolerance_stays_within_it(name, q_a, q_b, rho):
    pointwise = Pointwise(name)
    scale = float(np.sqrt(pointwise.V(q_a) * pointwise.V(q_b)))
    many = np.full(200, rho)
    loose = pointwise.C(np.full(200, q_a), np.full(200, q_b), many, 1e-8)
    np.testing.assert_allclose(loose, float(pointwise.C(q_a, q_b, rho)), rtol=0, atol=2e-8 * scale)
