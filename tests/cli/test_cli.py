"""The command line, run as a user runs it."""

import json
import math
import os
import re
import select
import signal
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import forks
from criticality import Pointwise
from criticality.cli.main import main
from criticality.cli.progress import bar, working
from criticality.schema import read_dataset

TINY = ["--depth", "2", "--width", "64", "--image-size", "64", "--seeds", "2"]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_moments():
    record = run_json("moments", "--function", "tanh", "--alpha", 1, "--q", "1e-2,1,1e4", "--rho", "0.5,-1")
    assert {"q", "rho", "V", "D", "C", "Cd"} <= record.keys()
    assert np.shape(record["V"]) == np.shape(record["D"]) == (3,)
    assert np.shape(record["C"]) == np.shape(record["Cd"]) == (3, 2)
    assert record["C"][2][0] == pytest.approx(float(Pointwise("tanh").C(1e4, 1e4, 0.5)), rel=1e-14)
    assert "V" in run("moments", "--function", "dyt").stdout


def test_predict_resnet():
    record = run_json("predict", "resnet", "--norm", "dyt", "--alpha", 0.5, "--depth", 256, "--sigma-w", 1, "--q0", 1)
    assert len(record["log_apjn_profile"]) == 257
    assert record["log_apjn"] == record["log_apjn_profile"][0]
    assert record["log_apjn_profile"][-1] == 0.0
    assert record["q_final"] == record["q_profile"][-1]
    assert "log J(0->L)" in run("predict", "resnet").stdout


@pytest.mark.parametrize("norm", ["tanh", "derf", "ln", "arctan", "gelu"])
def test_predict_resnet_takes_any_norm(norm):
    assert run_json("predict", "resnet", "--norm", norm, "--depth", 8)["log_apjn"] > 0


def test_predict_reads_timm_on_the_meta_device(tmp_path):
    out = tmp_path / "p.nc"
    record = run_json(
        "predict", "timm:vit_base_patch16_224", "--norm", "derf", "--alpha", 0.5, "--depth", 3, "--samples", 2,
        "--out", out,
    )  # fmt: skip
    assert len(record["log_apjn_profile"]) == 4
    assert read_dataset(out).sizes["block"] == 7


def test_measure(tmp_path):
    out = tmp_path / "m.nc"
    record = run_json("measure", "timm:vit_tiny_patch16_224", "--norm", "dyt", *TINY, "--out", out)
    assert len(record["log_apjn_profile"]) == len(record["log_apjn_se_profile"]) == 3
    assert float(read_dataset(out).log_apjn[0]) == record["log_apjn"]
    one = TINY[: TINY.index("--seeds")]  # pairs are measured at one seed
    pairs = run_json("measure", "timm:vit_tiny_patch16_224", *one, "--between", "--out", tmp_path / "b.nc")
    assert np.shape(pairs["log_apjn"]) == (3, 3)
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_compare_writes_a_report_that_stands_alone(tmp_path):
    record = run_json("compare", "timm:vit_tiny_patch16_224", "--norm", "ln,dyt", "--alpha", "0.5,1", *TINY,
                      "--init", "own,fan-in", "--samples", 4, "--out", tmp_path)  # fmt: skip
    assert record.pop("initialized")[0]["drawn"] == 8
    assert record == json.loads((tmp_path / "summary.json").read_text())
    page = (tmp_path / "report.html").read_text()
    assert "LayerNorm" in page
    assert re.search(r"its tolerance\s+\(0\.0\d{1,3} for own init", page)
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("log_apjn", "kernel", "correlation") for kind in ("png", "svg")
    }
    assert "agrees" in run("compare", "timm:vit_tiny_patch16_224", "--norm", "dyt", *TINY, "--out", tmp_path).stdout


OWN = """
import torch
from torch import nn

class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        x = self.second(torch.tanh(x)) + x
        return self.third(torch.tanh(x)) + x

def stream():
    return Stream()

def inputs(model):
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))

def points(model):
    return ["first", "second", "third"]
"""


def test_a_module_of_ones_own_is_measured_and_predicted(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    record = run_json("measure", f"module:{tmp_path}/own.py:stream", "--seeds", 4)
    assert len(record["log_apjn_profile"]) == 3
    predicted = run_json("predict", f"module:{tmp_path}/own.py:stream", "--seeds", 4)
    assert predicted["way"] == "sampled"
    error = 0.05 + 3 * math.hypot(record["log_apjn_se"], predicted["log_apjn_se"])
    assert predicted["log_apjn"] == pytest.approx(record["log_apjn"], abs=error)
    refused = run("predict", f"module:{tmp_path}/own.py:stream", "--way", "exact")
    assert refused.exit_code == 2
    assert "the sub-layer that ends at 'second' is not read by the exact theory" in refused.stderr
    (tmp_path / "found.py").write_text(OWN.partition("def points")[0])
    assert run_json("predict", f"module:{tmp_path}/found.py:stream")["way"] == "exact"
    (tmp_path / "other.py").write_text(OWN.replace("torch.tanh(x)", "torch.cumsum(x, -1)").partition("def points")[0])
    refused = run("predict", f"module:{tmp_path}/other.py:stream", "--way", "exact")
    assert "call 'cumsum' in 'the model itself' must be one that the exact theory reads" in refused.stderr
    assert "--way='no' must be one of" in run("predict", "timm:vit_tiny_patch16_224", "--way", "no").stderr


def test_what_a_model_prints_does_not_mix_with_what_is_printed(tmp_path, monkeypatch):
    """A file below the home folder, with the line ends of another system."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code = (
        "import torch\nfrom torch import nn\nprint('loaded')\n"
        "class Block(nn.Linear):\n    def forward(self, x):\n        print('run')\n        return x + super().forward(x)\n"
        "def model():\n    print('built')\n    return nn.Sequential(Block(4, 4), Block(4, 4))\n"
        "def inputs(model):\n    return torch.ones(2, 3, 4)\n"
    )
    (tmp_path / "own model.py").write_bytes(code.replace("\n", "\r\n").encode())
    result = CliRunner().invoke(main, ["measure", "module:~/own model.py:model", "--seeds", "2", "--json"])
    assert json.loads(result.stdout)["block"] == [0, 1, 2]
    assert {"loaded", "built", "run"} <= set(result.stderr.splitlines())


def test_a_model_file_may_import_a_file_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text(OWN)
    (tmp_path / "main.py").write_text("from beside_it import inputs, points, stream")
    assert len(run_json("measure", f"module:{tmp_path}/main.py:stream", "--seeds", 2)["log_apjn_profile"]) == 3


@pytest.mark.parametrize("model", ["timm:convnext_atto", "hf:mamba"])
def test_models_that_the_exact_theory_does_not_know_go_through_every_verb(model, tmp_path):
    small = ["--tokens", 8, "--depth", 2] if model.startswith("hf") else []
    predicted = run_json("predict", model, *small, "--seeds", 2)
    assert predicted["way"] == "sampled"
    chain = run_json("stream", model, *small)["chains"][0]
    assert [point["block"] for point in chain["points"]] == list(range(len(predicted["block"])))
    record = run_json(
        "compare", model, *small, "--norm", "own", "--init", "own", "--seeds", 2, "--out", tmp_path / "out"
    )
    case = record["cases"][0]
    assert (case["way"], case["verdict"]) == ("sampled", "agrees")


@pytest.mark.parametrize("model", ["hf:gpt2", "hf:qwen3", "hf:bert"])
def test_text_models_go_through_every_verb(model, tmp_path):
    small = ["--depth", 2, "--width", 128, "--tokens", 16]
    predicted = run_json("predict", model, *small, "--norm", "dyt", "--samples", 4)
    measured = run_json("measure", model, *small, "--norm", "dyt", "--seeds", 2)
    assert predicted["log_apjn"] == pytest.approx(measured["log_apjn"], abs=0.1)
    record = run_json("compare", model, *small, "--norm", "own,derf", "--alpha", 1, "--init", "own", "--seeds", 2,
                      "--samples", 4, "--out", tmp_path / "out")  # fmt: skip
    assert [case["norm"] for case in record["cases"]] == ["own", "derf"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    converted = run_json("convert", model, *small, "--norm", "dyt", "--alpha", 0.5, "--out", tmp_path / "w.safetensors")
    assert len(converted["replaced"]) >= 5
    assert (tmp_path / "w.safetensors").exists()


def test_convert_refuses():
    result = run("convert", "hf:gpt2", "--depth", 1, "--width", 64, "--norm", "nope")
    assert result.exit_code == 2
    assert "norm 'nope' is unknown" in result.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_report_of_what_is_finished(tmp_path):
    alphas = ",".join(
        f"{0.1 * number:.1f}" for number in range(1, 41)
    )  # far more than are done before the signal comes
    options = ["--norm", "dyt", "--alpha", alphas, *TINY, "--samples", "400", "--out", str(tmp_path)]
    process = forks.start("-m", "criticality.cli.main", "compare", "timm:vit_tiny_patch16_224", *options)
    deadline = time.monotonic() + 120
    while not (tmp_path / "summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to resume" in errors
    finished = read_dataset(tmp_path / "result.nc").sizes["case"]
    assert 1 <= finished < 40
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moments", "--function", "tanhh"], "function 'tanhh' is unknown"),
        (["moments", "--function", "tanh", "--alpha", "-1"], "alpha=-1.0 must be a finite number above 0"),
        (["moments", "--function", "tanh", "--alpha", "nan"], "alpha=nan"),
        (["moments", "--function", "tanh", "--q", "1,-2"], "--q=-2.0 must be a finite variance"),
        (["moments", "--function", "tanh", "--q", "one"], "--q='one' must be a finite variance"),
        (["moments", "--function", "tanh", "--rho", "2"], "--rho=2.0 must be a correlation"),
        (["predict", "resnet", "--norm", "nope"], "norm 'nope' is unknown"),
        (["predict", "resnet", "--depth", "0"], "depth=0 must be a whole number"),
        (["predict", "resnet", "--q0", "-1"], "--q0=-1.0 must be a finite variance"),
        (["predict", "resnet", "--sigma-w", "nan"], "--sigma-w=nan"),
        (["predict", "timm:nope"], "model 'timm:nope' must be a model of timm"),
        (["predict", "nope"], "model 'nope' must be given as 'timm:NAME'"),
        (["measure", "timm:vit_tiny_patch16_224", "--device", "tpu9"], "device='tpu9' must be a device"),
        (["measure", "timm:vit_tiny_patch16_224", "--device", "cuda:7"], "device='cuda:7' must be a device"),
        (["measure", "timm:vit_tiny_patch16_224", "--seeds", "0"], "--seeds=0 must be a whole number, 1 or above"),
        (["compare", "timm:vit_tiny_patch16_224", "--alpha", "0"], "alpha=0.0 must be a finite number above 0"),
        (["compare", "timm:vit_tiny_patch16_224", "--init", "he"], "init 'he' is unknown"),
        (["moments", "--function", "tanh", "--out", "/proc/no/where.json"], "/proc/no"),
        (["predict", "timn:vit_tiny_patch16_224"], "(did you mean 'timm'?)"),
        (["predict", "timm:vit_tiny_patch16_224", "--init", "fanin"], "(did you mean 'fan-in'?)"),
        (["predct"], "verb 'predct' is unknown (did you mean 'predict'?)"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_verb_without_its_package_work_is_quick():
    result = run("predict", "resnet", "--norm", "dyt", "--depth", "4096", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["log_apjn_profile"]) == 4097


def test_help_and_version():
    assert "compare" in run("--help").stdout
    assert re.match(r"criticality, version \d", run("--version").stdout)


@pytest.mark.parametrize("size", [(0, 0), (24, 0), (0, 80), (24, 100)])
def test_a_terminal_sees_what_is_being_done(size, monkeypatch):
    """Some terminals say that they have no rows or columns."""
    termios = pytest.importorskip("termios")
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, size)
    with open(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        with working("check"), bar(3, "seeds") as advance:
            advance("seed 0", 1)
        assert select.select([master], [], [], 10)[0]
        shown = os.read(master, 10_000).decode()
    os.close(master)
    assert "check: 00:00" in shown
    assert "seeds: " in shown
    assert "/3" in shown
