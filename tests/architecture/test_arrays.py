"""Arrays are what their annotations say: theory, phases and measurement run with every one of them checked."""

from pathlib import Path

import forks

CHECKED = """
import sys

sys.path.insert(0, sys.argv[1])
from jaxtyping import install_import_hook

with install_import_hook(
    ["criticality.pointwise", "criticality.theory", "criticality.phases", "criticality.measurement"], "array_checks.arrays"
):
    import criticality.measurement
    import criticality.phases
    import criticality.theory

import numpy as np
import torch
from cases import SUBLAYERS
from criticality.measurement import input_kernels, measure, measure_between
from criticality.phases import ResidualStep, amplification_map, classify, critical_line
from criticality.pointwise import FUNCTIONS, Pointwise
from criticality.theory import Network, SymmetricKernel, TokenKernel, log_apjn_variance, make_norm, propagate
from criticality.theory.propagation import _symmetric_log_apjn
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


points = np.random.default_rng(0).standard_normal((4, 9))
kernel = TokenKernel.of(points @ points.T / 9)
for part in SUBLAYERS.values():
    propagate(Network((part,)), kernel, samples=2, keep_kernels=True)
propagate(Network((SUBLAYERS["linear, DyT"],) * 3), SymmetricKernel.of(1.0, 0.3, 5))
amplification_map(FUNCTIONS["tanh"], 5, weight_variance=np.ones((2, 1)), alpha=np.ones(3), threads=1)
classify(ResidualStep(make_norm("dyt")))
critical_line(FUNCTIONS["tanh"], np.array([0.1, 0.3]))
log_apjn_variance(Pointwise("tanh"), 4, 32, walks=100)
model, batch = nn.Sequential(nn.Linear(8, 8), Block(), Block()), torch.randn(2, 5, 8)
measure(model, batch)
measure_between(model, batch)
input_kernels(model, batch)
for call in (
    lambda: _symmetric_log_apjn(np.ones((3, 2, 3))),
    lambda: critical_line(FUNCTIONS["tanh"], np.ones((2, 2))),
    lambda: TokenKernel(np.ones((2, 3))),
):
    try:
        call()
    except Exception as error:
        assert type(error).__name__ in ("TypeCheckError", "TypeError"), error
    else:
        raise AssertionError("a wrong shape was taken")
print("checked")
"""


def test_arrays_are_what_they_are_said_to_be(tmp_path: Path):
    script = tmp_path / "checked.py"
    script.write_text(CHECKED)
    run = forks.run(script, Path(__file__).parents[1], anew=("criticality", "cases", "array_checks"))
    assert run.stdout.strip() == "checked", run.stderr[-3000:]
