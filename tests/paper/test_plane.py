"""Doshi's plane: the theory of its colours against networks and known lines, and what is read off made-up accuracies."""

import math

import numpy as np
import pytest
import xarray as xr

from criticality.laboratory.data import DATA_ROOT, fashion_mnist
from criticality.laboratory.initial import log_apjn
from criticality.laboratory.recursion import Shape, Stack
from criticality.phases import critical_line
from criticality.pointwise import get_function
from made_up import made_up_plane
from plane import INPUT_VARIANCE, last_log_chi, read_panels


@pytest.mark.parametrize(("norm", "mu"), [("none", 0.0), ("none", 1.0), ("ln", 0.9), ("ln", 1.0)])
def test_the_last_layers_chi_is_that_of_wide_networks(norm, mu):
    import torch

    x = torch.randn(1, 40, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x * (0.3 * 50 / x.square().sum(-1, keepdim=True)).sqrt()
    found = []
    for depth in (5, 6):  # log chi of the last layer is what it adds to log J, to a seed's scatter
        totals = []
        for seed in range(6):
            stack = Stack(Shape(1, depth, 600, 50, 2, norm, "erf", mu, False), torch.float64)
            stack.initialize([seed], 1.7, 0.4, [])
            totals.append(float(log_apjn(stack, x)[0]))
        found.append(np.mean(totals))
    expected = [
        sum(
            float(last_log_chi(norm, "erf", mu, d, np.array([1.7**2]), np.array([0.16]), 0.3)[0])
            for d in range(1, depth + 1)
        )
        for depth in (5, 6)
    ]
    assert found == pytest.approx(expected, abs=0.06)


def test_without_a_skip_path_chi_is_1_on_the_critical_line():
    b = np.array([0.2, 0.6])
    w = critical_line(get_function("erf"), b)
    assert last_log_chi("none", "erf", 0.0, 400, w**2, b**2) == pytest.approx(0.0, abs=1e-3)


def test_with_layer_norm_the_critical_line_is_the_sources():
    """``sigma_b^2 = sigma_w^2 (D - V)`` for every mu below 1: erf sigma_b = 0.324 sigma_w; at mu = 1 everywhere, with depth."""
    w = np.array([0.5, 2.0])
    assert last_log_chi("ln", "erf", 0.9, 400, w**2, (0.324 * w) ** 2) == pytest.approx(0.0, abs=1e-3)
    assert last_log_chi("ln", "erf", 1.0, 10_000, w**2, np.zeros(2)) == pytest.approx(0.0, abs=1e-3)
    with pytest.raises(ValueError, match="'none' or 'ln'"):
        last_log_chi("rms", "erf", 0.9, 4, w, w)


@pytest.mark.skipif(not DATA_ROOT.exists(), reason="FashionMNIST is not installed")
def test_the_kernel_at_the_start_is_the_datas():
    assert float(fashion_mnist().train.pixels.square().mean()) == pytest.approx(INPUT_VARIANCE, abs=5e-4)


def test_accuracy_that_falls_with_the_distance_from_criticality_and_one_that_does_not():
    def near(w, b):
        return 0.9 - abs(float(last_log_chi("none", "erf", 0.0, 50, np.array([w * w]), np.array([b * b]))[0]))

    (panel,) = read_panels(made_up_plane(near))
    assert panel.accuracy.shape == (6, 6)
    assert panel.accuracy[2, 3] == pytest.approx(near(panel.sigma_w[3], panel.sigma_b[2]) - 0.01)
    assert panel.correlation().high < -0.95
    rng = np.random.default_rng(2)
    noise = read_panels(made_up_plane(lambda w, b: rng.random()))[0].correlation()
    assert noise.low < 0 < noise.high
    data = made_up_plane(near)
    data.status.values[5:] = "open"
    part = read_panels(data)[0]
    assert int(np.isfinite(part.accuracy).sum()) == 5
    assert math.isnan(part.accuracy[0, 5])
    with pytest.raises(ValueError, match="eight points"):
        part.correlation()
    with pytest.raises(ValueError, match="lacks sigma_w"):
        read_panels(xr.Dataset())
