"""Cells of a study trained together against the same study cell by cell."""

import numpy as np
import pytest
from click.testing import CliRunner

from criticality.cli.main import main
from criticality.sweeps import Study, run_study
from criticality.sweeps.stacks import stacks_of
from criticality.sweeps.store import Store

RESNET = Study(
    "together",
    "train",
    grid={"learning_rate": [0.001, 0.01, 0.1]},
    fixed={"task": "fashion-resnet", "depth": 2, "width": 16, "steps": 12, "batch": 8, "seeds": 2},
    cases=(
        {"norm": "ln"},
        {"norm": "dyt", "alpha": 0.3, "sigma_w": 2.0},
        {"norm": "dyt", "alpha": 1.0, "schedule": True},
    ),
    search="learning_rate",
)
VIT = Study(
    "vits",
    "train",
    grid={"learning_rate": [0.001, 0.01]},
    fixed={"task": "fashion-vit", "depth": 1, "width": 32, "steps": 11, "batch": 8, "seeds": 2, "every": 11},
    cases=({"norm": "dyt", "alpha": 0.5},),
)


@pytest.fixture(autouse=True)
def _root(fashion_root, monkeypatch):
    monkeypatch.setenv("CRITICALITY_DATA_ROOT", str(fashion_root))


@pytest.mark.parametrize("study", [RESNET, VIT], ids=["resnet", "vit"])
def test_together_is_as_cell_by_cell(study, tmp_path):
    steps = []
    report = run_study(
        study, tmp_path / "a.zarr", together=4, progress=lambda count, status: steps.append((count, status))
    )
    count = len(list(study.cells()))
    assert report.counts["done"] == report.computed == sum(number for number, _ in steps) == count
    assert run_study(study, tmp_path / "a.zarr", together=4).computed == 0
    plain = Study(**{**study.record(), "search": "", "cases": study.cases})
    run_study(plain, tmp_path / "b.zarr", workers=0)
    together, alone = Store(tmp_path / "a.zarr").dataset(), Store(tmp_path / "b.zarr").dataset()
    assert set(alone.data_vars) - set(together.data_vars) <= {"gradient_norm_series"}
    for name in ("loss_series", "first_loss", "last_loss", "validation_accuracy", "test_accuracy", "diverged"):
        np.testing.assert_allclose(together[name], alone[name], atol=0.02, err_msg=name)
    np.testing.assert_allclose(together.log_apjn, alone.log_apjn, atol=1e-4 if study is RESNET else 0.3)


def test_stacks_hold_what_can_be_together():
    cells = dict(enumerate(RESNET.cells()))
    stacks = stacks_of(cells, "train", 4)
    assert [list(stack) for stack in stacks] == [
        [0, 1],
        [2],
        [3, 4],
        [5, 6],
        [7, 8],
    ]  # of two runs each; LayerNorm apart
    assert [len(stack) for stack in stacks_of(cells, "train", 1)] == [1] * 9
    with pytest.raises(ValueError, match=r"together=4 must be left out but for compute='train' of fashion-resnet"):
        stacks_of({0: {"task": "digits"}}, "train", 4)


def test_what_fails_is_said_of_its_cells_alone(tmp_path):
    bad = Study("bad", "train", fixed={**RESNET.fixed, "learning_rate": 0.01}, cases=({"norm": "ln"}, {"norm": "dyt"}))
    report = run_study(bad, tmp_path / "bad.zarr", together=8)
    assert (report.counts["done"], report.counts["failed"]) == (1, 1)
    assert list(Store(tmp_path / "bad.zarr").messages().values()) == [
        "ArgumentError: alpha=None must be a number with norm='dyt'"
    ]


def test_command_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: small\ncompute: train\ngrid: {learning_rate: [0.01, 0.1]}\n"
        "fixed: {task: fashion-resnet, norm: ln, depth: 2, width: 16, steps: 11, batch: 8, seeds: 1}\n"
    )
    command = ["sweep", "run", str(file), "--out", str(tmp_path / "small.zarr"), "--json"]
    assert '"done": 2' in CliRunner().invoke(main, [*command, "--together", "2"]).stdout
    for wrong, said in (
        (["--device", "meta"], "device='meta' must be one that holds numbers"),
        (["--device", "cpu:0"], "device='cpu:0' must come with together"),
        (["--together", "0"], "together"),
        (["--together", "2", "--device", "nosuch", "--retry"], "device='nosuch' must be a device that torch has here"),
    ):
        result = CliRunner().invoke(main, [*command, *wrong])
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
