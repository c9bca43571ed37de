"""What is not installed: one sentence with the command that installs it, and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_BLOCKED = """
import json, sys
from click.testing import CliRunner
from criticality.cli.main import main
found = {}
for package, line in json.loads(sys.argv[1]):
    assert package not in sys.modules
    sys.modules[package] = None
    ended = CliRunner().invoke(main, line.split())
    found[package] = [ended.exit_code, ended.stderr]
    del sys.modules[package]
print(json.dumps(found))
"""

_FACTORY = """
import torch

def factory():
    return torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))

def inputs(model):
    from criticality.models import photographs
    return torch.from_numpy(photographs(8)).mean(1)
"""


def blocked(cases: list[tuple[str, str]]) -> dict[str, list]:
    """Exit code and stderr of a command line, where a package is missing."""
    run = subprocess.run(
        [sys.executable, "-c", _BLOCKED, json.dumps(cases)], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def sentence(package: str, extra: str) -> str:
    return (
        f"criticality: package {package!r} must be installed for this, and is not: pip install 'criticality[{extra}]'\n"
    )


def test_models(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(_FACTORY)
    cases = {
        "timm": ("predict timm:vit_tiny_patch16_224", "timm"),
        "transformers": ("predict hf:llama", "hf"),
        "safetensors": (f"convert module:{file}:factory --out {tmp_path / 'weights'}", "hf"),
        "PIL": (f"stream module:{file}:factory", "timm"),
        "sklearn": ("train digits --steps 1 --depth 1 --width 32", "train"),
    }
    found = blocked([(package, line) for package, (line, _) in cases.items()])
    assert found == {package: [2, sentence(package, extra)] for package, (_, extra) in cases.items()}


def test_sweeps(tmp_path: Path):
    study = tmp_path / "study.yaml"
    study.write_text("name: s\ncompute: predict\ngrid: {alpha: [0.5, 1.0]}\nfixed: {depth: 2, norm: dyt}\n")
    line = f"sweep run {study} --out {tmp_path / 's.zarr'}"
    packages = ("yaml", "zarr", "dask", "distributed")
    found = blocked([(package, line) for package in packages])
    assert found == {package: [2, sentence(package, "sweeps")] for package in packages}


@pytest.mark.parametrize("memory", [False, True])
def test_modules_that_only_unix_has(memory: bool, tmp_path: Path):
    """A sweep runs without them; a limit of memory, which needs one, is refused."""
    limit = "memory_gb: 1\n" if memory else ""
    study = tmp_path / "study.yaml"
    study.write_text(f"name: s\ncompute: predict\ngrid: {{alpha: [0.5, 1.0]}}\nfixed: {{depth: 2, norm: dyt}}\n{limit}")
    code = f"""
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None
from criticality.cli.main import main
main({["sweep", "run", str(study), "--out", str(tmp_path / "s.zarr"), "--workers", "0", "--json"]!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if memory:
        assert run.returncode == 2
        assert "memory_gb=1" in run.stderr
        assert "must be left out" in run.stderr
    else:
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["done"] == 2
