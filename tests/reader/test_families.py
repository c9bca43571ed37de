"""The reader of the data flow against the readers of single families that it replaced, and against real weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from close_fields import assert_close
from criticality.models import DynamicPointwise, model_spec
from criticality.pointwise import get_function
from criticality.pointwise.library import FUNCTIONS
from criticality.pointwise.zoo import ZOO
from criticality.reader import read_network
from criticality.weightless import build_without_weights
from reader.families import FAMILIES, description, profile

ADAPTERS = json.loads((Path(__file__).parents[1] / "data" / "adapters.json").read_text())


@pytest.mark.parametrize(("name", "norm"), FAMILIES)
def test_what_the_readers_of_families_gave_is_read(name, norm):
    made = description(name, norm)
    model = build_without_weights(made.create)
    found = profile(read_network(model, made.inputs()))
    for key, expected in ADAPTERS[f"{name} {norm}"].items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["hf:qwen3", "timm:eva02_tiny_patch14_224"])
def test_weights_that_are_there_are_read_as_their_laws(name):
    made = description(name, None)
    torch.manual_seed(0)
    actual = read_network(made.build(), made.inputs())
    expected = read_network(build_without_weights(made.create), made.inputs())
    for a, b in zip(actual.sublayers, expected.sublayers, strict=True):
        assert a.norm == b.norm
        assert_close(a.branch, b.branch, rel=0.05)


def test_small_weights_enter_by_their_laws_too():
    """A key projection of 128 x 32 entries is not drawn: its variance is 128 times 0.02 squared, whatever the seed."""
    network, _ = model_spec("hf:mistral", depth=1, width=128, tokens=4).read()
    assert network.sublayers[0].branch.key.weight_variance == pytest.approx(128 * 0.02**2, rel=1e-9)


def test_every_function_is_read_by_its_name(tmp_path):
    """The function of the library itself, with its closed form, and not the calls that it is made of."""
    (tmp_path / "own.py").write_text("def rooted(x):\n    return abs(x + 0.2) ** 0.75\n")
    names = [*dict.fromkeys([*ZOO, *FUNCTIONS]), f"{tmp_path}/own.py:rooted@kinks=-0.2"]

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = torch.nn.ModuleList(DynamicPointwise(8, name, 0.5) for name in names)
            self.start = torch.nn.Linear(8, 8)
            self.maps = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in names)

        def forward(self, x):
            x = self.start(x)
            for norm, linear in zip(self.norms, self.maps, strict=True):
                x = x + linear(norm(x))
            return x

    network = read_network(Stack(), torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)))
    found = [part.norm.pointwise for part in network.sublayers]
    assert [one.phi for one in found] == [get_function(name) for name in names]
    assert {one.alpha for one in found} == {0.5}
