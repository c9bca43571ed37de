"""What is imported before it is used: help of any verb and theory wait for no torch."""

import json
import subprocess
import sys

import pytest

import forks
from criticality.cli.main import VERBS, main
from criticality.phases.zoo import ALPHAS

_REPORT = """
import json, sys
from click.testing import CliRunner
from criticality.cli.main import main
codes = {line: CliRunner().invoke(main, line.split()).exit_code for line in json.loads(sys.argv[1])}
print(json.dumps({"codes": codes, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    """Packages that a fresh Python has imported in the end."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert set(found["codes"].values()) <= {0}, found["codes"]
    return set(found["modules"])


SLOW = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "sklearn",
    "matplotlib",
    "dask",
    "distributed",
    "zarr",
    "lightning",
}


def test_the_default_of_help_is_that_of_the_library():
    zoo = main.get_command(None, "zoo")
    (alphas,) = [one for one in zoo.params if one.name == "alphas"]
    assert tuple(float(one) for one in alphas.default.split(",")) == ALPHAS


def test_help_computes_nothing():
    lines = ["--help", "--version", *(f"{verb} --help" for verb in VERBS), "sweep run --help"]
    assert not modules_after(_REPORT, json.dumps(lines)) & (SLOW | {"scipy", "xarray", "pandas", "tabulate", "tqdm"})


@pytest.mark.parametrize(
    ("lines", "unused"),
    [
        (["moments --function gelu"], {"scipy", "xarray", "pandas"}),
        (["phases resnet --points 4 --depth 10", "classify --function tanh"], {"xarray", "pandas"}),
        (["predict resnet --depth 4"], set()),
    ],
)
def test_theory_waits_for_no_torch(lines: list[str], unused: set[str]):
    found = modules_after(_REPORT, json.dumps(lines))
    assert "numpy" in found
    if "xarray" in found:
        found -= {"dask"}  # which xarray imports itself, where it is installed
    assert not found & (SLOW | unused)


def test_a_study_of_theory_waits_for_no_torch():
    code = """
import json, sys
from criticality.sweeps.compute import DONE, compute_cell
from criticality.sweeps.run import run_study
codes = {"cell": int(compute_cell("predict", {"depth": 4}, None).status != DONE)}
print(json.dumps({"codes": codes, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""
    assert not modules_after(code) & (SLOW - {"dask", "zarr"})  # a study is kept in zarr, and xarray imports dask


def test_the_package_is_a_table_of_contents(tmp_path):
    code = """
import json, sys
import criticality
listed = set(criticality.__all__) <= set(dir(criticality))
print(json.dumps({"codes": {"listed": int(not listed)}, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""
    assert not modules_after(code) & (SLOW | {"numpy", "scipy", "xarray"})
    script = tmp_path / "names.py"
    script.write_text("""
import criticality
print(*(name for name in criticality.__all__ if name != "predict" and not hasattr(criticality, name)), "are missing")
""")
    assert forks.run(script, anew=("criticality",)).stdout.strip() == "are missing"
