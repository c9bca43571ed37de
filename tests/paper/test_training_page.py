"""The page of the converged trainings, on made-up ones, and whether the one that is kept is of the packs that are kept."""

from pathlib import Path

import pytest

import draw_training
import make_training
from criticality.studies.training import read_trainings
from kept import kept_trainings
from made_up import factorial, made_up, made_up_plane
from plane import read_panels

DOCS = Path(__file__).parents[2] / "docs"


def test_page_of_made_up_trainings(tmp_path, monkeypatch):
    choices = factorial(lambda a, t: 0.9 - 0.01 * t)
    norm = {"norm": "ln", "log_apjn": 4.2, "quality": 0.95, "log_stable": -1.6}
    data = made_up([*choices, norm], name="factorial_32")
    data["diverged"].values[3, 0] = 1
    studies = {"factorial_32": read_trainings(data)}
    monkeypatch.setattr(make_training, "FOLDER", tmp_path)
    page = make_training.page(studies, {})
    lines = page.splitlines()
    assert "| `factorial_32` | 126 of 126 cells (21 of 21 choices) |" in lines
    assert "| `factorial_64` | 0 of about 182 cells (0 of 28 choices) |" in lines
    row = next(line for line in lines if line.startswith("| log J(0 → L) |")).split("|")
    assert float(row[2].split()[0]) < -0.8
    assert row[5].strip() == "21"
    assert "Best with LayerNorm: 0.9" in page
    assert "best pointwise: 0.8" in page
    assert "best pointwise of the same log J within 0.5: 0.8" in page
    assert "| `factorial_32` | dyt | 1 (1) | 0 | 72 (60) |" in page  # log J = 16 is chaotic
    assert (tmp_path / "training.png").stat().st_size > 5_000


def test_plane_is_drawn():
    figure = draw_training.draw_plane(read_panels(made_up_plane(lambda w, b: 0.9 - 0.1 * w)))
    assert len(figure.axes) == 4  # two panels and their colour bars
    assert figure.axes[1].collections[0].get_array().max() == pytest.approx(0.9 - 0.08 - 0.01)


def test_the_page_that_is_kept_is_of_the_packs_that_are_kept():
    page = (DOCS / "studies" / "training.md").read_text()
    for name, study in kept_trainings().items():
        assert f"| `{name}` | {study.progress} |" in page
