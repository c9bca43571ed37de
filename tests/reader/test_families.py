"""The reader of the data flow against the readers of single families that it replaced, and against real weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from close_fields import assert_close
from criticality.models import model_spec
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
