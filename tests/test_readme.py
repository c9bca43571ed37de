"""The README's Python runs, and every command of README and docs, as it stands."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from criticality.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands_of(text):
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["criticality"]:
                yield shlex.join(words[1:])


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page.read_text())))
ELSEWHERE = {
    "claims": "each claim has its test, tests/paper/test_claims.py",
    "--scheduler": "a cluster of its own, tests/sweeps/test_sweeps.py",
    "--device cuda": "a card, as tests/sweeps/test_stacks.py on the CPU",
}
QUICK = [
    command
    for command in COMMANDS
    if re.match(r"(moments|predict resnet|classify --function|phases mlp|sweep|$)", command)
]
EVERY = bool(os.environ.get("CRITICALITY_EVERY_COMMAND"))
"""Whether commands that take ten seconds to minutes are run, too; ten minutes altogether."""

HEAVY = re.compile(r"zoo|train|phases transformer|.*(vit_base|vit_small|mixtral|--width 8192)|compare")
SLOW = [command for command in COMMANDS if command not in QUICK and not any(word in command for word in ELSEWHERE)]


@pytest.mark.slow
def test_python_snippets_run():
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert float(names["theory"].log_apjn[0]) > 0


@pytest.mark.parametrize("command", [command for command in COMMANDS if command])
def test_commands_are_understood(command):
    words = shlex.split(command)
    main.get_command(None, words[0]).make_context(words[0], words[1:])


MINE = """
import numpy as np
from torch import nn
import torch

def softsign(x):
    return x / (1 + np.abs(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x))
        return x

def model():
    return Net()

def inputs(model):
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
"""


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "my_model.py"):
        Path(name).write_text(MINE)
    (tmp_path / "examples").mkdir()
    for name in ("study.yaml", "examples/depths.yaml"):
        shutil.copy(ROOT / "examples" / "depths.yaml", name)
    Path("path/to").mkdir(parents=True)
    small = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    Path("path/to/config.json").write_text(json.dumps(small))


def invoke(command):
    result = CliRunner().invoke(main, shlex.split(command))
    allowed = (0, 1) if command.startswith("check") else (0,)  # 1: beyond the budget
    assert result.exit_code in allowed, f"{command}: {result.output}"
    assert "Warning" not in result.stderr


def test_quick_commands_run(as_a_reader):
    """In their order: a sweep is resumed and exported after it has run."""
    for command in QUICK:
        if not any(word in command for word in ELSEWHERE):
            invoke(command)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_slow_commands_run(command, as_a_reader):
    if HEAVY.match(command) and not EVERY:
        pytest.skip("ten seconds to minutes: with CRITICALITY_EVERY_COMMAND=1 only")
    invoke(command)
