"""Stores that were damaged: one sentence that names what, nothing exported that was not written, all of it computed again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import forks
from criticality.cli.main import main
from criticality.sweeps.pack import pack_study, packed_dataset, unpack_study
from criticality.sweeps.run import run_study
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study

CELLS = """
import time

def cubes(cell):
    time.sleep(cell.get("sleep", 0))
    return {"cube": float(cell["x"]) ** 3 + 1, "series": [cell["x"] + 0.5, 2.0, float("nan")]}

def refuses(cell):
    raise RuntimeError("the sensor is off")

def ragged(cell):
    return {"series": [1.0] * (3 - abs(cell["x"] - 1)), "last": float("nan")}

def folded(cell):
    return {"series": [1.0] if cell["x"] == 0 else [[1.0]]}

def clashes(cell):
    return {"x": 1.0}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "cells.py").write_text(CELLS)
    return Study("cubes", f"module:{tmp_path / 'cells.py'}:cubes", {"x": [0, 1, 2, 3]})


@pytest.fixture
def store(tmp_path, study):
    run_study(study, tmp_path / "s.zarr", workers=0)
    return tmp_path / "s.zarr"


def flip(file, place, mask=1):
    content = bytearray(file.read_bytes())
    content[place] ^= mask
    file.write_bytes(content)


DAMAGE = {
    "value chunk deleted": (lambda s: (s / "cube/c/2").unlink(), "cell 2"),
    "value byte flipped": (lambda s: flip(s / "cube/c/1", 5), "cell 1"),
    "byte of a series flipped": (lambda s: flip(s / "series/c/3/0", 3), "cell 3"),
    "value chunk cut": (lambda s: os.truncate(s / "cube/c/1", 3), "cell 1"),
    "value chunk emptied": (lambda s: os.truncate(s / "series/c/1/0", 0), "cell 1"),
    "checksum deleted": (lambda s: (s / "checksum/c/0").unlink(), "cell 0"),
    "status chunk garbage": (lambda s: (s / "status/c/3").write_bytes(b"garbage"), "cell 3"),
    "status chunk flipped": (lambda s: flip(s / "status/c/3", 9, mask=2), "cell 3"),
    "seconds deleted": (lambda s: (s / "seconds/c/0").unlink(), "cell 0"),
    "array deleted": (lambda s: shutil.rmtree(s / "cube"), "cube"),
    "checksums deleted": (lambda s: shutil.rmtree(s / "checksum"), "checksum"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_computed_again(store, study, kind):
    damage, named = DAMAGE[kind]
    whole = Store(store).dataset()
    damage(store)
    run = CliRunner().invoke
    for verb, ending in (("export", ".csv"), ("pack", ".zarr.zip")):
        out = store.with_name("out" + ending)
        refused = run(main, ["sweep", verb, str(store), "--out", str(out)])
        assert refused.exit_code == 2, refused.output
        assert named in refused.stderr
        assert str(store) in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not out.exists()
    counted = run(main, ["sweep", "status", str(store), "--json"])
    assert counted.exit_code == 0
    assert json.loads(counted.stdout)["damaged_cells"]
    left_alone = run(main, ["sweep", "resume", str(store), "--workers", "0"])
    assert left_alone.exit_code == 2
    assert named in left_alone.stderr
    again = run_study(study, store, workers=0, retry=True)
    assert again.counts == {"open": 0, "done": 4, "failed": 0, "nan": 0, "memory": 0}
    repaired = Store(store).dataset()
    for name in ("cube", "series"):
        np.testing.assert_array_equal(repaired[name], whole[name])


@pytest.mark.parametrize("file", ["cube/zarr.json", "status/zarr.json", "zarr.json"])
@pytest.mark.parametrize("verb", ["export", "status", "resume", "pack"])
def test_damaged_metadata_is_one_sentence(store, file, verb):
    (store / file).write_text('{"zarr_format": 3, "sha')
    refused = CliRunner().invoke(main, ["sweep", verb, str(store)])
    assert refused.exit_code == 2
    assert str(store) in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_changed_parameter_is_noticed(store):
    """A flipped byte in the grid would put right values beside wrong parameters."""
    metadata = store / "zarr.json"
    metadata.write_text(metadata.read_text().replace("[0, 1, 2, 3]", "[0, 1, 2, 7]"))
    with pytest.raises(ValueError, match="of cell 3"):
        Store(store).dataset()


def as_older(store):
    """As commits before checksums made it."""
    shutil.rmtree(store / "checksum")
    group = zarr.open_group(store, mode="r+")
    for name in ("variables", "checksums"):
        del group.attrs[name]


def test_stores_without_checksums_are_read_and_gone_on_with(store, study, tmp_path):
    whole = Store(store).dataset()
    as_older(store)
    np.testing.assert_array_equal(Store(store).dataset().cube, whole.cube)
    (store / "status/c/1").unlink()
    assert run_study(study, store, workers=0).computed == 1
    np.testing.assert_array_equal(Store(store).dataset().cube, whole.cube)
    packed = pack_study(store, tmp_path / "p.zarr.zip")
    np.testing.assert_array_equal(packed_dataset(packed).cube, whole.cube)
    flip(store / "cube/c/1", 5)  # written with a checksum now
    with pytest.raises(ValueError, match="of cell 1"):
        Store(store).dataset()


def test_a_damaged_pack_is_one_sentence(store, tmp_path):
    packed = pack_study(store, tmp_path / "p.zarr.zip")
    with zipfile.ZipFile(packed) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.startswith("cube/c"))
    flip(packed, entry.header_offset + 60)
    for read in (packed_dataset, lambda path: unpack_study(path, tmp_path / "u.zarr")):
        with pytest.raises(ValueError, match=r"p\.zarr\.zip' must"):
            read(packed)
    assert not list(tmp_path.glob("*u.zarr*"))


def test_values_that_do_not_fit_are_failures_that_say_so(tmp_path, study):
    for function, said in (("folded", "other cells (1,): axes must be as many"), ("clashes", "named 'x'")):
        path = tmp_path / f"{function}.zarr"
        run_study(Study(function, study.compute.replace("cubes", function), {"x": [0, 1, 2]}), path, workers=0)
        assert said in Store(path).messages()[1]


def test_shorter_values_are_filled_with_nan_and_still_verified(tmp_path, study):
    """As profiles of networks of several depths in one study; the third cell is computed after a longer one."""
    path = tmp_path / "ragged.zarr"
    run_study(Study("ragged", study.compute.replace("cubes", "ragged"), {"x": [0, 1, 2]}), path, workers=0)
    found = Store(path).dataset()
    np.testing.assert_array_equal(np.isnan(found.series), [[0, 0, 1], [0, 0, 0], [0, 0, 1]])
    packed = packed_dataset(pack_study(path, tmp_path / "p.zarr.zip"))
    np.testing.assert_array_equal(packed.series, found.series)
    for cell in (0, 1):
        chunks = sorted((path / f"series/c/{cell}").rglob("*"))
        kept = [(chunk, chunk.read_bytes()) for chunk in chunks if chunk.is_file()]
        kept[-1][0].unlink()
        with pytest.raises(ValueError, match=f"of cell {cell}"):
            Store(path).dataset()
        kept[-1][0].write_bytes(kept[-1][1])
    assert not Store(path).damage()


def test_a_study_of_failures_only_is_a_failure(tmp_path, study):
    (tmp_path / "study.yaml").write_text(
        json.dumps({**study.record(), "compute": study.compute.replace("cubes", "refuses")})
    )
    ended = CliRunner().invoke(
        main, ["sweep", "run", str(tmp_path / "study.yaml"), "--workers", "0", "--out", str(tmp_path / "s.zarr")]
    )
    assert ended.exit_code == 2
    assert "all 4 failed" in ended.stderr
    assert "the sensor is off" in ended.stderr
    (tmp_path / "study.yaml").write_text(json.dumps({**study.record(), "compute": "module:nowhere.py:f"}))
    ended = CliRunner().invoke(main, ["sweep", "run", str(tmp_path / "study.yaml")])
    assert ended.exit_code == 2
    assert "nowhere.py" in ended.stderr


def test_nothing_temporary_stays(store, study, tmp_path):
    (tmp_path / ".s.zarr.99999.part").mkdir()
    (store / "cube/c/0.1234.partial").write_text("half")
    (store / "status/c/1").unlink()
    run_study(study, store, workers=0)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["cells.py", "s.zarr"]
    assert not list(store.rglob("*.partial"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_is_one_line(tmp_path, study, workers):
    """Ctrl-C reaches every process of the group, as a terminal sends it."""
    (tmp_path / "study.yaml").write_text(
        json.dumps({**study.record(), "fixed": {"sleep": 0.2}, "grid": {"x": list(range(500))}})
    )
    command = ("-m", "criticality", "sweep", "run", "study.yaml", "--out", "s.zarr", "--workers", workers)
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn"}
    driver = forks.start(*command, cwd=tmp_path, env=environment, start_new_session=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(tmp_path.glob("s.zarr/status/c/*")):
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert err.count("\n") == 1, err
    assert "sweep resume s.zarr" in err
    assert not out
    assert Store(tmp_path / "s.zarr").counts()["done"] > 0
    assert not (tmp_path / "s.zarr.lock").exists()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="no namespace to be had",
)
def test_without_a_loopback_interface(tmp_path, study):
    (tmp_path / "study.yaml").write_text(json.dumps(study.record()))
    command = [
        "unshare",
        "-rn",
        sys.executable,
        "-m",
        "criticality",
        "sweep",
        "run",
        "study.yaml",
        "--out",
        "s.zarr",
        "--json",
    ]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "workers=2 must be 0" in refused.stderr
    assert not (tmp_path / "s.zarr").exists()
    done = subprocess.run(
        [*command, "--workers", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout)["done"] == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: 3\ncompute: predict", "name=3"),
        ("name: t\ncompute: [1]", "compute="),
        ("name: t\ncompute: predict\ngrid: 5", "grid=5"),
        ("name: t\ncompute: predict\nfixed: [1, 2]", "fixed="),
        ("name: t\ncompute: predict\ncases: {a: 1}", "cases="),
        ("name: t\ncompute: predict\ncases: [3]", "one is 3"),
        ("name: t\ncompute: predict\ngrid: {1: [2]}", "parameter 1"),
        ("name: t\ncompute: predict\nmemory_gb: lots", "memory_gb='lots'"),
        ("name: t\ncompute: predict\nfixed: {day: 2026-01-01}", "parameters must be"),
        ("name: t\ncompute: predict\ngird: {x: [1]}", "holds 'gird'"),
        ("name: a/b\ncompute: predict", "without '/'"),
    ],
)
def test_study_files_of_wrong_types(tmp_path, content, said):
    (tmp_path / "study.yaml").write_text(content)
    refused = CliRunner().invoke(main, ["sweep", "run", str(tmp_path / "study.yaml")])
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
