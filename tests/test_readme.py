"""The README's Python runs, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from criticality.cli.main import main

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("criticality ")
]


@pytest.mark.slow
def test_python_snippets_run():
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert float(names["theory"].log_apjn[0]) > 0


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    words = shlex.split(line, comments=True)[1:]
    command = main.get_command(None, words[0])
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("line", [line for line in COMMANDS if "moments" in line or "resnet" in line])
def test_quick_commands_run(line):
    result = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output
