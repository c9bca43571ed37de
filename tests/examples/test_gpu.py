"""The protocol for a card, at toy size on the CPU."""

import json
import sys
from pathlib import Path

import pytest

from criticality.python_file import load_file

SCRIPT = Path(__file__).parents[2] / "examples" / "gpu" / "protocol.py"


@pytest.mark.slow
def test_toy_size_on_cpu_goes_on_where_it_stopped(tmp_path, monkeypatch, fashion_root):
    command = [str(SCRIPT), "--toy", "--device", "cpu", "--minutes", "0.005", "--out", str(tmp_path)]
    command += ["--data-root", str(fashion_root)]
    monkeypatch.setattr(sys, "argv", command)
    load_file(str(SCRIPT), "script").main()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["setting"]["norm"] for row in results["runs"]] == ["ln", "dyt"]
    assert all("error" not in row for row in results["runs"]), results["runs"]
    assert all(0.05 < row["accuracy"] < 1 and row["log_apjn"] > 0 for row in results["runs"])
    assert results["benchmarks"]["step_ln"] == 1.0
    results["runs"] = [results["runs"][0], {"setting": results["runs"][1]["setting"], "kept": True}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    load_file(str(SCRIPT), "script").main()
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_every_grid_has_a_layer_norm_column():
    settings = list(load_file(str(SCRIPT), "script").grids(12))
    for grid in {setting.grid for setting in settings}:
        norms = {setting.norm for setting in settings if setting.grid == grid}
        assert "ln" in norms
        assert norms - {"ln"}
    assert len(settings) == len(set(settings)) == 52


def test_normalizers_are_timed_beside_layer_norm(tmp_path, monkeypatch):
    script = SCRIPT.with_name("normalizers.py")
    small = ["--device", "cpu", "--tokens", "4", "--widths", "8", "16", "--rounds", "1", "--no-compile", "--out"]
    monkeypatch.setattr(sys, "argv", [str(script), *small, str(tmp_path)])
    load_file(str(script), "script").main()
    rows = json.loads((tmp_path / "normalizers.json").read_text())["rows"]
    assert [row["width"] for row in rows if row["norm"] == "LayerNorm"] == [8, 16]
    assert all(row["microseconds"] > 0 and (row["norm"] != "LayerNorm" or row["over LayerNorm"] == 1) for row in rows)
