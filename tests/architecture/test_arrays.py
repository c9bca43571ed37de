"""Arrays are what their annotations say: every room that names shapes runs with all of them checked."""

from pathlib import Path

import forks

CHECKED = """
import sys

sys.path.insert(0, sys.argv[1])
from jaxtyping import install_import_hook

ROOMS = "pointwise", "theory", "phases", "measurement", "weightless", "models", "prescription"
with install_import_hook([f"criticality.{room}" for room in ROOMS], "array_checks.arrays"):
    import criticality.measurement
    import criticality.models
    import criticality.phases
    import criticality.prescription
    import criticality.theory
    import criticality.weightless

import numpy as np
import torch
from cases import SUBLAYERS
from criticality.models import DynamicPointwise, ResidualNetwork, gaussian_inputs
from criticality.prescription import power_law, prescribe, schedule_from_data, trade_off, tune
from criticality.measurement import input_kernels, measure, measure_between
from criticality.phases import ResidualStep, amplification_map, classify, critical_line
from criticality.pointwise import FUNCTIONS, Pointwise
from criticality.theory import Network, SymmetricKernel, TokenKernel, log_apjn_variance, make_norm, propagate
from criticality.theory.propagation import _symmetric_log_apjn
from criticality.weightless import predict_sampled
from criticality.weightless.deep import run_deep
from criticality.weightless.prepared import prepared
from criticality.weightless.span import root_of
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


class Transformer(nn.Module):
    def __init__(self, norm=DynamicPointwise):
        super().__init__()
        self.norms = nn.ModuleList(norm(8) for _ in range(4))
        self.mixers = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))

    def forward(self, x):
        for number in range(2):
            seen = self.norms[2 * number](x)
            x = x + self.mixers[number](seen, seen, seen, need_weights=False)[0]
            x = x + self.inner[number](self.norms[2 * number + 1](x))
        return x


predict_sampled(Transformer, batch, [0, 1])
predict_sampled(lambda: Transformer(nn.LayerNorm), batch, [0], probe="loss")
run_deep(prepared(Transformer, batch, 0), [1, 8])
network = Network((SUBLAYERS["linear, DyT"],) * 3)
prescribe(network, kernel, 0.2, "constant", samples=2)
trade_off(network, kernel, "constant", [0.5, 1.0])
power_law(4, 1.0)
schedule_from_data(Transformer(), batch, 0.5)
tune(Transformer(), batch, 0.5, max_passes=2, probes=2)
measure(ResidualNetwork(8, 3, "derf"), gaussian_inputs(2, 8, 0))
for call in (
    lambda: _symmetric_log_apjn(np.ones((3, 2, 3))),
    lambda: critical_line(FUNCTIONS["tanh"], np.ones((2, 2))),
    lambda: TokenKernel(np.ones((2, 3))),
    lambda: root_of(torch.ones(2, 3, 4)),
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
