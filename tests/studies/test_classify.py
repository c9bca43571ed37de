"""Classes of models whose blocks are repeated, against the exact theory where there is one."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from criticality.cli.main import main
from criticality.errors import InputsError, UndescribedError
from criticality.models import model_spec
from criticality.phases.noisy import GEOMETRIC, classify_profiles
from criticality.studies.classify import classify_description, classify_sampled
from criticality.theory import propagate

WIDTH = 128


class Block(nn.Module):
    """``x + W norm(x)``, entries of ``W`` from N(0, 1 / width)."""

    def __init__(self, norm: Callable[[], nn.Module]):
        super().__init__()
        self.norm, self.out = norm(), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.out.weight, std=WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.norm(x))


def _model(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(Block(norm), Block(norm)).double()


def _inputs() -> Tensor:
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(
    ("norm", "kind", "exponent"),
    [
        (partial(nn.LayerNorm, WIDTH), "power", 1.0),
        (nn.Tanh, "stretched", 0.5),
        (nn.Identity, "exponential", 1.0),
    ],
)
def test_classes_of_one_branch(norm: Callable[[], nn.Module], kind: str, exponent: float) -> None:
    repeated = classify_sampled(partial(_model, norm), _inputs(), 4, depth=300)
    found = repeated.found
    assert found.kind == kind
    assert found.exponent == pytest.approx(exponent, abs=0.15)
    assert 0 < found.exponent_se < 0.15
    assert (repeated.blocks, repeated.period) == (("0", "1"), 1)


def test_an_exponent_that_moves_is_not_known_to_its_statistical_error() -> None:
    """``log J = z + 0.02 z^2``, ``z = log(1 + L)``: in the middle of the deeper half of the window the local exponent is 1.24."""
    z = np.log1p(GEOMETRIC)
    noise = 0.005 * np.random.default_rng(0).standard_normal((4, len(z)))
    moving, still = (
        classify_profiles(GEOMETRIC, np.cumsum(np.diff(one, prepend=0.0) + noise, axis=1))
        for one in (z + 0.02 * z**2, z)
    )
    assert moving.exponent + 2 * moving.exponent_se < 1.24 < moving.interval[1]
    assert moving.exponent_systematic > 5 * still.exponent_systematic


def test_a_vision_transformer_meets_the_exact_class() -> None:
    description = model_spec("timm:vit_tiny_patch16_224", norm="dyt", depth=2, image_size=32, init="fan-in")
    exact, _ = classify_description(description, way="exact")
    repeated, _ = classify_description(description, way="sampled", depth=48, seeds=3)
    found = repeated.found
    for depth in (12, 48):
        assert abs(found.log_apjn[depth] - exact.log_apjn[depth]) < 4 * found.log_apjn_se[depth] + 0.1  # of 2.5 and 5.6


def test_gpt2_meets_the_exact_theory_of_its_block() -> None:
    """Causal attention tells tokens apart, so that ``auto`` samples; the exact side is all tokens' kernels."""
    description = model_spec("hf:gpt2", depth=2, width=192, tokens=8, norm="dyt", init="fan-in")
    with pytest.raises(UndescribedError):
        classify_description(description, way="exact")
    repeated, _ = classify_description(description, depth=24, seeds=4)
    found = repeated.found
    network, inputs = description.read(0)
    repeated = replace(network, sublayers=network.last_block * 12)
    exact = float(propagate(repeated, inputs, samples=16).log_apjn[0])
    assert abs(found.log_apjn[12] - exact) < 4 * found.log_apjn_se[12] + 0.1


OWN = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix, self.out = nn.RMSNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return x + self.out(torch.fft.fft(self.mix(self.norm(x)), dim=1).real.relu())

def make():
    return nn.Sequential(Block(), Block(), nn.RMSNorm(64))

def inputs(model):
    return torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0))
"""


def test_the_command_line_takes_a_model_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    asked = ["classify", f"module:{path}:make", "--seeds", "2", "--to-depth", "60", "--json"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["way"], record["blocks"]) == ("sampled", ["0", "1"])
    assert record["log_apjn"]["48"] > record["log_apjn"]["12"] > 0
    exact = CliRunner().invoke(main, [*asked, "--way", "exact"])
    assert exact.exit_code != 0
    assert "must be" in exact.stderr


def test_what_is_refused() -> None:
    with pytest.raises(InputsError, match="depth=10"):
        classify_sampled(partial(_model, nn.Tanh), _inputs(), 1, depth=10)
    with pytest.raises(InputsError, match="seeds=0"):
        classify_sampled(partial(_model, nn.Tanh), _inputs(), 0)
    description = model_spec("hf:gpt2", depth=2, width=64, tokens=8)
    with pytest.raises(InputsError, match=r"q0=1\.0 must be left out"):
        classify_description(description, q0=1.0)
