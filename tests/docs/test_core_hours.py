"""The stop of the plan: what cells took is counted once, and ``run.sh`` ends a study whose time is spent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from criticality.python_file import load_file
from criticality.sweeps.pack import pack_study
from criticality.sweeps.run import run_study
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study

STUDIES = Path(__file__).parents[2] / "docs" / "studies"
BUSY = """
import time

def busy(cell):
    end = time.process_time() + cell["duration"]
    while time.process_time() < end:
        pass
    return 1.0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "busy.py").write_text(BUSY)
    study = Study("made_up", f"module:{tmp_path / 'busy.py'}:busy", {"duration": [0.05, 0.06]})
    run_study(study, tmp_path / "stores" / "made_up.zarr", workers=0)
    return tmp_path


def test_a_cell_counts_once(folder):
    spent = load_file(str(STUDIES / "core_hours.py"), "script").spent
    store = folder / "stores" / "made_up.zarr"
    (folder / "kept").mkdir()
    alone = spent([folder], folder / "kept")
    assert 0.11 <= alone < 5
    assert alone == pytest.approx(float(Store(store).dataset().seconds.sum()))
    pack_study(store, folder / "kept" / "made_up.zarr.zip")
    assert spent([folder], folder / "kept") == pytest.approx(alone)
    assert spent([], folder / "kept") == pytest.approx(alone)
    shutil.copy(folder / "kept" / "made_up.zarr.zip", folder / "kept" / "another.zarr.zip")
    assert spent([folder], folder / "kept") == pytest.approx(2 * alone)


def repository(here, duration):
    """One of its own, with one study."""
    (here / "docs" / "studies" / "training").mkdir(parents=True)
    for name in ("run.sh", "pack.sh", "core_hours.py"):
        shutil.copy(STUDIES / name, here / "docs" / "studies" / name)
    (here / "busy.py").write_text(BUSY)
    yaml = f"name: busy\ncompute: 'module:busy.py:busy'\ngrid: {{duration: [{duration}]}}\n"
    (here / "docs" / "studies" / "training" / "busy.yaml").write_text(yaml)
    (here / "src").symlink_to(Path(__file__).parents[2] / "src")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "made up"]):
        subprocess.run([*git, *command], cwd=here, check=True)


def run(here, folder, hours):
    command = ["sh", "docs/studies/run.sh", "HEAD", str(folder), sys.executable, "busy"]
    environment = os.environ | {"CORE_HOURS": hours}
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("hours", "status", "said"), [("1e-9", 3, "are spent"), ("0.0009", 3, "ended by signal")])
def test_run_sh_stops(tmp_path, hours, status, said):
    """In a study that would take a minute."""
    repository(tmp_path / "here", 60)
    ended = run(tmp_path / "here", tmp_path / "run", hours)
    assert (ended.returncode, said in ended.stderr) == (status, True), ended.stderr


def test_what_is_packed_is_unpacked_by_a_later_start(tmp_path):
    here = tmp_path / "here"
    repository(here, 0.05)
    ended = run(here, tmp_path / "first", "1")
    assert ended.returncode == 0, ended.stderr
    pack = ["sh", "docs/studies/pack.sh", str(tmp_path / "first"), sys.executable]
    subprocess.run(pack, cwd=here, check=True, capture_output=True, timeout=600)
    assert (here / "examples" / "paper" / "data" / "busy.zarr.zip").is_file()
    later = run(here, tmp_path / "later", "1")
    assert later.returncode == 0, later.stderr
    first, again = (Store(tmp_path / name / "stores" / "busy.zarr").dataset().seconds for name in ("first", "later"))
    assert again.values == pytest.approx(first.values, rel=1e-12)  # not computed again
