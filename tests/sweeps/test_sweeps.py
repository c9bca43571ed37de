"""Studies through a real Dask scheduler with worker processes, and what goes wrong in them."""

import errno
import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import forks
from criticality.cli.main import main
from criticality.sweeps import run
from criticality.sweeps.compute import compute_cell
from criticality.sweeps.run import export_study, run_study
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study, read_study
from criticality.theory import SymmetricKernel, make_norm, propagate, resnet

CELLS = '''
import os
import signal
import time


def counted(cell):
    """Leaves a line in a file for each time it is computed."""
    time.sleep(cell.get("sleep", 0.0))
    with open(cell["log"], "a") as log:
        log.write(f"{cell['x']}\\n")
    return {"square": float(cell["x"]) ** 2, "profile": [cell["x"], 1.0]}


def troubled(cell):
    if cell["x"] == 1:
        raise ZeroDivisionError("no way")
    if cell["x"] == 2:
        return float("nan")
    if cell["x"] == 3:
        return float(len(bytearray(4 << 30)))
    if cell["x"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(cell["x"])


def busy(cell):
    end, n = time.process_time() + cell["seconds"], 0
    while time.process_time() < end:
        n += 1
    return 1.0
'''


@pytest.fixture
def cells(tmp_path):
    path = tmp_path / "cells.py"
    path.write_text(CELLS)
    return path


def theory():
    return Study(
        "theory",
        "predict",
        {"norm": ["dyt", "derf"], "alpha": [0.5, 1.0], "depth": [3, 12]},
        {"model": "resnet", "sigma_w": 1.0},
    )


def test_a_study_is_what_the_library_computes(tmp_path):
    report = run_study(theory(), tmp_path / "s.zarr")
    assert (report.counts["done"], report.computed, report.not_written) == (8, 8, 0)
    data = Store(tmp_path / "s.zarr").dataset()
    for index in range(8):
        cell = data.isel(cell=index)
        network = resnet(make_norm(str(cell.norm.values), float(cell.alpha)), int(cell.depth))
        assert float(cell.log_apjn) == float(propagate(network, SymmetricKernel.of(1.0)).log_apjn[0])
    again = run_study(theory(), tmp_path / "s.zarr")
    assert again.computed == 0
    exported = xr.load_dataset(export_study(tmp_path / "s.zarr", tmp_path / "s.nc"), engine="h5netcdf")
    np.testing.assert_array_equal(exported.log_apjn, data.log_apjn)
    assert (export_study(tmp_path / "s.zarr", tmp_path / "s.csv")).read_text().count("\n") == 9
    with pytest.raises(ValueError, match=r"must end in \.nc or \.csv"):
        export_study(tmp_path / "s.zarr", tmp_path / "s.xls")


def test_every_way_to_run_out_of_memory_is_told_apart(tmp_path):
    path = tmp_path / "cells.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "from criticality.measurement import measure\n"
        "class Large(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x + torch.empty(10**15)\n"
        "def cell(values):\n"
        "    if values['how'] == 'model':\n"
        "        return measure(Large(), torch.ones(1, 2))\n"
        "    raise {'python': MemoryError(), 'card': torch.OutOfMemoryError('CUDA out of memory.'),\n"
        "           'processor': RuntimeError('DefaultCPUAllocator: not enough memory: you tried'),\n"
        "           'other': RuntimeError('no room'), 'end': GeneratorExit()}[values['how']]\n"
    )
    found = {how: compute_cell(f"module:{path}:cell", {"how": how}, None).status
             for how in ("python", "card", "processor", "model", "other", "end")}  # fmt: skip
    assert found == {
        **dict.fromkeys(("python", "card", "processor", "model"), "memory"),
        "other": "failed",
        "end": "failed",
    }


def test_cells_that_fail_do_not_stop_the_rest(tmp_path, cells, monkeypatch):
    """One of them kills its process, and with it those that wait there: they are computed all the same."""
    monkeypatch.setattr(run, "_DEATHS", 1)
    study = Study("trouble", f"module:{cells}:troubled", {"x": [4, 1, 2, 3, 0, 5]}, memory_gb=1.0)
    report = run_study(study, tmp_path / "s.zarr", workers=1)
    assert report.counts == {"open": 0, "done": 2, "failed": 2, "nan": 1, "memory": 1}
    messages = Store(tmp_path / "s.zarr").messages()
    assert messages[0].startswith("its process was killed")
    assert messages[1] == f"ZeroDivisionError: no way ({tmp_path / 'cells.py'}:17)"
    assert messages[2] == "value is nan"
    assert messages[3] == "needed more than memory_gb=1.0"
    assert run_study(study, tmp_path / "s.zarr", workers=1).computed == 0
    assert run_study(study, tmp_path / "s.zarr", workers=1, retry=True).computed == 4


def test_a_full_disk_loses_only_what_it_cannot_hold(tmp_path, cells, monkeypatch):
    study = Study("full", f"module:{cells}:counted", {"x": list(range(6))}, {"log": str(tmp_path / "log")})
    real, broken = Store._write_run, {2, 3}

    def write(self, run):
        if broken & set(run):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, run)

    monkeypatch.setattr(Store, "_write_run", write)
    report = run_study(study, tmp_path / "s.zarr", workers=0)
    assert (report.counts["done"], report.counts["open"], report.not_written) == (4, 2, 2)
    broken.clear()
    assert run_study(study, tmp_path / "s.zarr", workers=0).computed == 2


def test_two_drivers_do_not_write_to_one_store(tmp_path):
    first = Store(tmp_path / "s.zarr", theory(), write=True)
    with pytest.raises(ValueError, match="must not be in use, but another process writes to it"):
        run_study(theory(), tmp_path / "s.zarr", workers=0)
    assert Store(tmp_path / "s.zarr").counts()["open"] == 8  # reading is free
    first.close()
    assert run_study(theory(), tmp_path / "s.zarr", workers=0).counts["done"] == 8


def test_foreign_and_broken_stores_are_refused(tmp_path, cells):
    run_study(theory(), tmp_path / "s.zarr", workers=0)
    other = Study("theory", "predict", {"norm": ["dyt"], "depth": [3]})
    with pytest.raises(ValueError, match="must be of this study, code and version"):
        run_study(other, tmp_path / "s.zarr", workers=0)
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ValueError, match="must be a whole store of a criticality study"):
        Store(tmp_path / "folder.zarr")
    metadata = tmp_path / "s.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text()[:40])
    with pytest.raises(ValueError, match="must be a whole store of a criticality study"):
        run_study(theory(), tmp_path / "s.zarr", workers=0)
    first = Study("own", f"module:{cells}:counted", {"x": [1]}, {"log": str(tmp_path / "log")})
    key = first.key()
    cells.write_text(CELLS + "\n# changed\n")
    assert first.key() != key  # what older code computed is not taken for the new


KILLS = 20 if os.environ.get("CRITICALITY_EVERY_COMMAND") else 6
"""With six of this seed the driver is killed four times and a worker twice."""


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, cells):
    """kill -9 of the driver or of a worker: no finished cell is lost or computed twice but those in flight."""
    log, store, count = tmp_path / "log", tmp_path / "s.zarr", 20 * KILLS
    study = {
        "name": "killed",
        "compute": f"module:{cells}:counted",
        "grid": {"x": list(range(count))},
        "fixed": {"log": str(log), "sleep": 0.1},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    command = ("-m", "criticality.cli.main", "sweep", "run", tmp_path / "study.yaml", "--out", store)
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn"}
    chance, kills, finished = random.Random(0), 0, 0
    driver = None
    while kills < KILLS:
        if driver is None or driver.poll() is not None:
            driver = forks.start(*command, env=environment, start_new_session=True)
        target = finished + chance.randint(1, 4)
        deadline = time.monotonic() + 60
        while finished < target and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            finished = Store(store).counts()["done"] if store.exists() else 0
        if driver.poll() is not None:
            break
        if chance.random() < 0.6:  # the driver, and its workers with it
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            driver = None
        else:
            workers = subprocess.run(
                ["pgrep", "-f", "-g", str(driver.pid), "spawn_main"], capture_output=True, text=True
            ).stdout.split()
            if workers:
                os.kill(int(chance.choice(workers)), signal.SIGKILL)
        kills += 1
        now = Store(store).counts()["done"] if store.exists() else 0
        assert now >= finished  # nothing that was finished is lost
        finished = now
    if driver is not None and driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert kills == KILLS, "the study ended before it was killed often enough"
    assert forks.run(*command, env=environment).returncode == 0
    data = Store(store).dataset()
    assert (data.status.values == "done").all()
    np.testing.assert_array_equal(data.square.values, np.arange(count, dtype=float) ** 2)
    np.testing.assert_array_equal(data.profile.values[:, 0], np.arange(count))
    computed = len(log.read_text().splitlines())
    in_flight = 3 * 2 * 8  # tasks on the workers, cells to a task
    assert computed <= count + kills * in_flight


@pytest.mark.slow
def test_a_small_training_study_end_to_end(tmp_path):
    """On a scheduler of its own, whose worker is in this process, which has torch, and is spoken to as one of another machine."""
    from distributed import LocalCluster

    study = Study(
        "small",
        "train",
        {"learning_rate": [1e-3, 1e-2], "seed": [0]},
        {"task": "digits", "width": 32, "depth": 2, "steps": 40, "batch": 32, "every": 20},
        ({"norm": "ln"}, {"norm": "dyt", "prescription": "schedule"}),
    )
    alike = {"processes": False, "protocol": "tcp://", "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=1, **alike) as cluster:
        report = run_study(study, tmp_path / "s.zarr", scheduler=cluster.scheduler_address)
    assert report.counts["done"] == 4
    data = Store(tmp_path / "s.zarr").dataset()
    assert np.isfinite(data.last_loss).all()
    learned = (data.norm.values == "ln") & (data.learning_rate.values == 1e-3)
    assert (data.last_loss < data.first_loss).values[learned].all()
    assert data.log_apjn.notnull().all()


def test_command_line(tmp_path):
    path, store = tmp_path / "study.yaml", tmp_path / "s.zarr"
    path.write_text("name: t\ncompute: predict\ngrid: {depth: [2, 3], norm: [dyt]}\n")

    def run(*arguments):
        return CliRunner().invoke(main, ["sweep", *map(str, arguments)])

    record = json.loads(run("run", path, "--out", store, "--workers", "0", "--json").stdout)
    assert (record["done"], record["computed"]) == (2, 2)
    assert json.loads(run("status", store, "--json").stdout)["done"] == 2
    assert json.loads(run("resume", store, "--json").stdout)["computed"] == 0
    assert run("export", store, "--out", tmp_path / "t.csv").exit_code == 0
    for text, message in [
        ("name: t\n", "must hold name and compute"),
        ("name: t\ncompute: nope\n", "compute='nope' must be"),
        ("name: t\ncompute: predict\ngrid: {depth: 3}\n", "grid 'depth' must be a list"),
        ("name: [", "must be YAML"),
        ("name: t\ncompute: predict\nname: u\n", "key 'name' is given twice, second in line 3"),
        (
            "name: t\ncompute: predict\ngrid: {depth: [3]}\nfixed: {depth: 4}\n",
            "'depth' must be in the grid or beside it",
        ),
    ]:
        path.write_text(text)
        refused = run("run", path)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert "must exist" in run("run", tmp_path / "none.yaml").stderr
    with pytest.raises(ValueError, match="must exist"):
        read_study(tmp_path / "none.yaml")
