"""Tables of the interactive figures against the other ways to the same numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from criticality import SymmetricKernel, make_norm, propagate, resnet
from criticality.phases import amplification_map, fixed_point_of
from criticality.pointwise import get_function
from explorer import mlp_explorer, residual_explorer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("norm", ["ln", "dyt", "derf"])
def test_residual_networks_are_those_of_the_theory(norm):
    table = residual_explorer((norm,), (0.5, 2.0), (0.7,), (0.3,), (0, 5, 40))
    for alpha in (0.5, 2.0):
        profile = propagate(
            resnet(make_norm(norm, None if norm == "ln" else alpha), 40, 0.49), SymmetricKernel.of(1.0, 0.3)
        )
        one = table.sel(norm=norm, alpha=alpha, sigma_w=0.7)
        assert np.allclose(one.log_apjn[1:], profile.log_apjn[0] - profile.log_apjn[[5, 40]], rtol=1e-6)
        assert np.allclose(one.q, profile.q[[0, 5, 40]], rtol=1e-6)  # LayerNorm's epsilon
        assert np.allclose(one.rho.sel(rho0=0.3), profile.correlation[[0, 5, 40]], rtol=1e-8)


def test_plain_networks_are_those_of_the_phase_maps():
    table = mlp_explorer(sigmas_w=(0.8, 1.7), sigmas_b=(0.2,), correlations=(0.5,), depths=(0, 30, 300))
    mapped = amplification_map(
        get_function("tanh"), 30, weight_variance=np.array([0.8, 1.7]) ** 2, bias_variance=0.04, skip=0.0
    ).log_apjn
    assert np.allclose(table.log_apjn[:, 0, 1], mapped, rtol=1e-6)
    for i, sigma_w in enumerate((0.8, 1.7)):
        point = fixed_point_of(get_function("tanh"), sigma_w**2, 0.04)
        one = table.isel(sigma_w=i, sigma_b=0)
        assert float(one.q[-1]) == pytest.approx(point.q, rel=1e-9)
        assert float(one.rho[0, -1]) == pytest.approx(point.rho, abs=1e-6)
        growth = float(one.log_apjn[2] - one.log_apjn[1]) / 270
        assert growth == pytest.approx(np.log(point.chi), rel=1e-4)


def test_the_site_holds_these_tables():
    """A few entries of the stored tables, computed again."""
    text = (DOCS / "_static" / "explorer" / "residual.js").read_text()
    stored = json.loads(re.search(r"= (\{\"axes\".*\});", text).group(1))
    axes, array = stored["axes"], stored["arrays"]["log_apjn"]
    shape = [len(axes[name]) for name in array["over"]]
    values = np.array(array["values"]).reshape(shape)
    a, s = axes["alpha"].index(2.0), axes["sigma_w"].index(0.5)
    again = residual_explorer(("dyt",), (2.0,), (0.5,), (0.0,), tuple(axes["depth"]))
    assert np.allclose(values[axes["norm"].index("dyt"), a, s], again.log_apjn[0, 0, 0], rtol=6e-5)
