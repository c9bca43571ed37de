"""Searches for rates on made-up outcomes, in one process, and stores in one file."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.sweeps.pack import pack_study, unpack_study
from criticality.sweeps.run import run_study
from criticality.sweeps.search import Outcome, best_value, is_stable, next_value, progress_of
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study

RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
FIRST = [5, 4, 6, 3]

CELLS = '''
import json
import math


def accuracy(cell):
    """Best at ``best``, falls slowly, and breaks down above ``largest``."""
    with open(cell["log"], "a") as log:
        log.write(json.dumps(cell["learning_rate"]) + "\\n")
    if cell["learning_rate"] == cell.get("broken"):
        raise RuntimeError("no such rate")
    near = 0.9 - 0.005 * abs(math.log10(cell["learning_rate"] / cell["best"]))
    value = near if cell["learning_rate"] <= cell["largest"] else 0.1
    return {"validation_accuracy": [value, value - 0.001], "score": value}
'''


def searched(outcome):
    tried = {}
    while (place := next_value(tried, FIRST, len(RATES))) is not None:
        assert place not in tried
        tried[place] = outcome(place)
    return tried


@pytest.mark.parametrize("largest", range(3, 11))
@pytest.mark.parametrize("best", range(11))
def test_a_search_finds_the_best_and_the_largest_stable_value(best, largest):
    if best > largest:
        return
    tried = searched(lambda k: Outcome((0.9 - 0.004 * abs(k - best),) * 2 if k <= largest else (0.9, 0.1)))
    assert best_value(tried) == best
    assert max(k for k in tried if is_stable(k, tried)) == largest
    assert all(k in tried for k in (best - 1, best + 1) if 0 <= k < len(RATES))
    assert len(tried) <= (8 if best in FIRST else 10)


def test_one_bad_seed_makes_a_value_unstable_and_failures_end_a_search():
    tried = {0: Outcome((0.9, 0.9)), 1: Outcome((0.9, 0.84)), 2: Outcome((0.95, 0.86))}
    assert best_value(tried) == 2
    assert is_stable(0, {0: tried[0], 1: tried[1]})
    assert not is_stable(1, {0: tried[0], 1: tried[1]})
    assert len(searched(lambda k: Outcome(()))) <= 11


@pytest.fixture
def study(tmp_path):
    (tmp_path / "cells.py").write_text(CELLS)
    return Study(
        "searched",
        f"module:{tmp_path / 'cells.py'}:accuracy",
        {"learning_rate": RATES},
        {"log": str(tmp_path / "log")},
        ({"best": 1e-3, "largest": 3e-2}, {"best": 1e-2, "largest": 1e-2, "broken": 3e-2}),
        search="learning_rate",
    )


def computed(tmp_path):
    return (tmp_path / "log").read_text().splitlines()


def test_a_study_searches_in_one_process_and_goes_on(tmp_path, study):
    with pytest.raises(ValueError, match=r"workers=2 must be 0 for a study that searches 'learning_rate'"):
        run_study(study, tmp_path / "s.zarr")

    def stop(count, status):
        if len(computed(tmp_path)) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "s.zarr", workers=0, progress=stop)
    assert Store(tmp_path / "s.zarr").counts()["done"] == 3  # each is written before the next
    report = run_study(study, tmp_path / "s.zarr", workers=0)
    store = Store(tmp_path / "s.zarr")
    assert progress_of(study, store) == (2, 2)
    assert report.counts["done"] == len(computed(tmp_path)) - 1
    assert report.counts["failed"] == 1  # an error is not a divergence, and is kept with its text
    assert next(iter(store.messages().values())) == f"RuntimeError: no such rate ({tmp_path / 'cells.py'}:11)"
    assert report.counts["open"] == 22 - len(computed(tmp_path))
    done = store.dataset()
    first = done.where((done.largest == 3e-2) & (done.status == "done"), drop=True)
    assert float(first.learning_rate[first.score > 0.8].max()) == 3e-2
    assert run_study(study, tmp_path / "s.zarr", workers=0).computed == 0


def test_a_store_is_packed_and_gone_on_with(tmp_path, study):
    def stop(count, status):
        if len(computed(tmp_path)) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "s.zarr", workers=0, progress=stop)
    packed = pack_study(tmp_path / "s.zarr", tmp_path / "s.zarr.zip")
    again = unpack_study(packed, tmp_path / "again.zarr")
    whole, other = Store(tmp_path / "s.zarr").dataset(), Store(again).dataset()
    np.testing.assert_array_equal(whole.validation_accuracy, other.validation_accuracy)
    np.testing.assert_array_equal(whole.status, other.status)
    run_study(study, again, workers=0)
    assert len(set(computed(tmp_path)[:5])) == 5
    assert Store(again).counts()["done"] > 5
    with pytest.raises(ValueError, match="must not exist"):
        unpack_study(packed, again)
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(ValueError, match="must be a zipped Zarr of criticality"):
        unpack_study(packed, tmp_path / "third.zarr")
    with pytest.raises(ValueError, match=r"must end in \.zarr\.zip"):
        pack_study(again, tmp_path / "s.tar")


def test_few_digits_stay_few(tmp_path):
    (tmp_path / "few.py").write_text(
        "import numpy as np\ndef few(cell):\n    return {'series': np.arange(4, dtype=np.float16), 'value': 1}\n"
    )
    study = Study("few", f"module:{tmp_path / 'few.py'}:few", {"x": [0, 1]})
    run_study(study, tmp_path / "s.zarr", workers=0)
    store = Store(tmp_path / "s.zarr")
    assert store.group["series"].dtype == np.float16
    assert store.group["value"].dtype == np.float64
    packed = unpack_study(pack_study(store.path, tmp_path / "s.zarr.zip"), tmp_path / "t.zarr")
    assert Store(packed).group["series"].dtype == np.float16


def test_command_line(tmp_path, study):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.record()))

    def run(*arguments):
        return CliRunner().invoke(main, ["sweep", *map(str, arguments)])

    assert "must be 0 for a study" in run("run", tmp_path / "study.yaml", "--out", tmp_path / "s.zarr").stderr
    assert run("run", tmp_path / "study.yaml", "--out", tmp_path / "s.zarr", "--workers", 0).exit_code == 0
    assert json.loads(run("status", tmp_path / "s.zarr", "--json").stdout)["searches_ended"] == 2
    assert run("pack", tmp_path / "s.zarr").exit_code == 0
    assert run("unpack", tmp_path / "s.zarr.zip", "--out", tmp_path / "t.zarr").exit_code == 0
    (tmp_path / "study.yaml").write_text(json.dumps(study.record()).replace("0.0001", "1e-4"))
    assert (
        "must be ascending numbers"
        in run("run", tmp_path / "study.yaml", "--workers", 0, "--out", tmp_path / "u").stderr
    )
    with pytest.raises(ValueError, match="search='x' must be a parameter of the grid"):
        Study("s", "train", {"y": [1]}, search="x")
