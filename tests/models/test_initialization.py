"""What an initialization draws, what it leaves and says so, and patterns that choose."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from criticality.cli.main import main
from criticality.models import initialize_branches


class Block(nn.Module):
    """A branch, and a gate that shifts the stream by what no path from the inputs passes."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.spare = nn.Linear(8, 3)  # as an expert that no token went to, of another shape

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Linear(8, 8), nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("patterns", "drawn"),
    [
        ({}, {f"blocks.{n}.{part}.weight" for n in range(3) for part in ("up", "down")}),
        ({"keep": ["blocks.1.*"]}, {f"blocks.{n}.{part}.weight" for n in (0, 2) for part in ("up", "down")}),
        ({"only": ["re:.*up.*"], "keep": ["blocks.0.*"]}, {"blocks.1.up.weight", "blocks.2.up.weight"}),
    ],
)
def test_what_is_drawn_is_what_is_said(patterns, drawn):
    torch.manual_seed(0)
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = initialize_branches(model, "fan-in", X, **patterns)
    assert set(told) == drawn
    weights = {name for name in changed(model, before) if name.endswith("weight")}
    assert weights == drawn
    matrices = {name for name, value in before.items() if value.ndim > 1}
    assert {*told.untouched} == matrices - drawn
    assert str(told).startswith(
        f"{len(drawn)} weights drawn, {len(matrices - drawn)} left as they were\n  first.weight"
    )
    assert "blocks.2.spare.weight" in told.beside
    assert "head.weight" not in told.beside


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strict": True}, "3 are in none, such as 'blocks.0.spare.weight'; name them in keep"),
        ({"keep": ["nothing"]}, "keep='nothing' must match a parameter of Net, and matches none"),
        ({"only": ["re:("]}, "must be a regular expression"),
    ],
)
def test_what_is_refused_changes_nothing(settings, said):
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        initialize_branches(model, "fan-in", X, **settings)
    assert not changed(model, before)
    assert len(initialize_branches(model, "fan-in", X, keep=["*.spare.*"], strict=True)) == 6


def test_convert_says_what_it_keeps():
    small = ["convert", "timm:vit_tiny_patch16_224", "--depth", "2", "--width", "12", "--image-size", "32", "--json"]
    ran = CliRunner().invoke(main, [*small, "--keep", "norm2", "--alpha", "0.5"])
    record = json.loads(ran.stdout)
    assert [one["name"] for one in record["kept"]] == ["blocks.0.norm2", "blocks.1.norm2"]
    assert [one["name"] for one in record["replaced"]] == ["blocks.0.norm1", "blocks.1.norm1", "norm"]
    only = json.loads(CliRunner().invoke(main, [*small, "--only", "blocks.0.*"]).stdout)
    assert [one["name"] for one in only["replaced"]] == ["blocks.0.norm1", "blocks.0.norm2"]
    refused = CliRunner().invoke(main, [*small, "--keep", "norm9"])
    assert refused.exit_code == 2
    assert "norm9" in refused.stderr


@pytest.mark.parametrize("verb", ["measure", "predict"])
def test_what_init_left_is_told(verb):
    """Mixtral's experts are three-dimensional, and multiplied in groups: both ways draw them, too."""
    ran = CliRunner().invoke(
        main, [verb, "hf:mixtral", "--depth", "1", "--width", "64", "--init", "fan-in", "--seeds", "2", "--json"]
    )
    assert ran.stderr == "--init: 7 weights drawn, 1 left as they were: embed_tokens.weight\n"
    assert json.loads(ran.stdout)["initialized"] == [{"drawn": 7, "left": ["embed_tokens.weight"]}]
