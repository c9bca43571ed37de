"""``J`` between any two boundaries, forward and backward."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Attention,
    Linear,
    Network,
    SymmetricKernel,
    TokenKernel,
    make_norm,
    propagate,
    propagate_between,
    transformer,
)

BLOCKS = transformer(make_norm("derf", 0.9), Attention(value=Linear(0.7)), MLP(Pointwise("relu"), Linear(1.3)), 5)
INPUTS = [SymmetricKernel.of(1.0, 0.2, 6), TokenKernel.of(np.diag([0.3, 1, 1, 2]) + 0.2)]


@pytest.mark.parametrize("kernel", INPUTS)
def test_the_last_column_is_the_profile_and_the_diagonal_zero(kernel):
    between = propagate_between(BLOCKS, kernel, samples=4).log_apjn
    np.testing.assert_allclose(between[:, -1], propagate(BLOCKS, kernel, samples=4).log_apjn, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(between), 0.0, atol=1e-12)
    assert np.all(np.isnan(between.values[np.tril_indices(11, -1)]))


def test_forward_is_a_network_that_starts_there():
    """Equivalent tokens: the sub-layers between two boundaries as a network of their own, from the kernel at the first."""
    whole = propagate(BLOCKS, INPUTS[0])
    forward = propagate_between(BLOCKS, INPUTS[0], start=2)
    start = SymmetricKernel.of(float(whole.q[4]), float(whole.p[4]), 6)
    for target in range(5, 11):
        part = propagate(Network(BLOCKS.sublayers[4:target]), start)
        assert float(forward.log_apjn[target]) == pytest.approx(float(part.log_apjn[0]), abs=1e-12)
    assert np.all(np.isnan(forward.log_apjn.values[:4]))
    with pytest.raises(ValueError, match=r"start=2.25 must be a boundary"):
        propagate_between(BLOCKS, INPUTS[0], start=2.25)


def test_forward_is_the_transposed_recursion():
    """LayerNorm, small scores, written out: the row ``(a, b)`` carried from block 8 on; not the quotient of two from block 0."""
    s, m, tokens = 1.50994944, 0.37748736, 197
    attention = Attention(value=Linear(s), scores="uniform")
    network = transformer(make_norm("ln", epsilon=0.0), attention, MLP(Pointwise("relu"), Linear(m)), 64)
    found = propagate_between(network, SymmetricKernel.of(1.0, 0.2, tokens), start=8).log_apjn
    whole = propagate_between(network, SymmetricKernel.of(1.0, 0.2, tokens), start=0).log_apjn
    q, p, a, b = 1.0, 0.2, 1.0, 0.0
    for layer in range(64):
        if layer == 8:
            a, b = 1.0, 0.0
        mixed = s / q * (a + b) / tokens
        a, b = a + mixed, b + (tokens - 1) * mixed
        mean = s * (1 + (tokens - 1) * p / q) / tokens
        q, p = q + mean, p + mean
        rho = p / q
        a, b = a * (1 + m / 2 / q), b * (1 + m * (0.25 + math.asin(rho) / (2 * math.pi)) / q)
        q, p = q + m / 2, p + m * (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    assert float(found[-1]) == pytest.approx(math.log(a), abs=1e-9)
    quotient = float(whole[-1] - whole.sel(target_block=8))
    assert quotient - math.log(a) == pytest.approx(0.5768, abs=1e-4)  # 1.05 where tokens start at 0.03, 0.40 at 0.4


def test_the_command_line_predicts_forward():
    """LayerNorm of one branch: ``J(l -> m) = (m + 1) / (l + 1)``."""
    arguments = ["predict", "resnet", "--norm", "ln", "--depth", "9", "--from", "2"]
    record = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert record["target_block"] == [2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(record["log_apjn_forward"], np.log(np.arange(3, 11) / 3), atol=1e-5)
    assert "block m" in CliRunner().invoke(main, arguments).output
    for refused in (["--probe", "loss"], ["--way", "sampled"]):
        run = CliRunner().invoke(main, [*arguments, *refused])
        assert run.exit_code == 2
        assert "must come with the exact way" in run.output
