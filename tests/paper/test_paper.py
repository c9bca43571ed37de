"""The paper example: draws, checks what is stored, and sees what is not as stored."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import forks
from paper import main

PAPER = Path(__file__).parents[2] / "examples" / "paper"


def run(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.slow
def test_figures_are_drawn_from_stored_results(tmp_path):
    names = {
        "growth",
        "phases",
        "alpha",
        "orders",
        "profiles",
        "matching",
        "susceptibility",
        "powers",
        "architectures",
        "deep",
        "gradients",
        "folds",
        "tolerances",
        "llama",
        "widths",
        "orthogonality",
    }
    drawn = run(*names, "--out", str(tmp_path))
    assert drawn.exit_code == 0, drawn.stderr
    assert {path.stem for path in tmp_path.iterdir()} == names


@pytest.mark.slow
def test_random_results_come_out_as_stored():
    """The suite's own share of what ``make figures`` checks."""
    checked = run("growth", "phases", "alpha", "--check", "5", "--seed", "3")
    assert checked.exit_code == 0, checked.stderr
    assert checked.stderr.count(": as stored") == 5


@pytest.mark.slow
def test_another_value_is_seen(tmp_path):
    copy = tmp_path / "examples" / "paper"
    shutil.copytree(PAPER, copy)
    for folder in ("claims", "data", "studies"):
        shutil.copytree(PAPER.parents[1] / "docs" / folder, tmp_path / "docs" / folder)
    path = copy / "data" / "growth.json"
    stored = json.loads(path.read_text())
    for curve in stored["curves"]:
        curve["values"]["log_apjn"][7] *= 1.001
    path.write_text(json.dumps(stored))
    checked = forks.run(copy / "paper.py", "growth", "--check", "1", anew=[path.stem for path in PAPER.iterdir()])
    assert checked.returncode == 1
    assert "NOT as stored" in checked.stderr


def test_unknown_figures_are_refused():
    refused = run("nope")
    assert refused.exit_code == 2
    assert "name 'nope' must be one of growth" in refused.stderr
