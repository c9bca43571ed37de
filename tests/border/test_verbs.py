"""Bad calls of every verb, made from the verbs' own parameters: one sentence, exit code 2, nothing else."""

import json
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from criticality.cli.main import VERBS, main
from criticality.cli.options import DOES_NOT_APPLY, CommaSeparated, NumberOf, OneOf, flag

TINY = ["timm:vit_tiny_patch16_224", "--depth", "2", "--width", "64", "--image-size", "64"]
VALID = {
    "check": TINY,
    "classify": TINY,
    "compare": TINY,
    "convert": TINY,
    "measure": TINY,
    "moments": ["--function", "tanh"],
    "phases": ["resnet"],
    "predict": ["resnet"],
    "prescribe": [*TINY, "--norm", "dyt"],
    "stream": TINY,
    "sweep run": ["study.yaml"],
    "sweep resume": ["store.zarr"],
    "sweep status": ["store.zarr"],
    "sweep export": ["store.zarr"],
    "sweep pack": ["store.zarr"],
    "sweep unpack": ["store.zip"],
    "train": ["digits"],
    "zoo": [],
}
NO_NUMBERS = ["x", "", "nan", "inf", "-inf", "1e400", "None", "0x10", "1,2"]
TOO_LARGE = ["1e300", "-1e300", "1e201"]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, "1.5", "1e3", "-1", "1000000000000000000000", "-7"]
NO_WORDS = {
    "norm": ["nosuch", "tnah", "own,dyt", "x.py:f"],
    "norms": ["nosuch", "ln,,dyt", "tnah"],
    "name": ["nosuch", "tanhh", "x.py:f", "tanh@kinks=0"],
    "init": ["nosuch", "fanin", "1"],
    "inits": ["nosuch", "fan_in"],
    "model": ["nosuch", "timm:", "timm:nosuch", "hf:nosuch", "module:x.py", "module:x.py:f", "hf:x/config.json", ":"],
    "device": ["nosuch", "cuda:99", "tpu", "meta:x", "meta", "cpu:7"],
    "target": ["nosuch", "-1", "nan", "share=2x", "0"],
    "over": ["nosuch", "alpha,aplha"],
    "scheduler": [],
    "keep": ["", "nosuch"],
    "only": ["", "nosuch"],
}


def command_of(verb):
    found = main
    for word in verb.split():
        found = found.get_command(click.Context(found), word)
    return found


def bad_values(param):
    """Values that a parameter must refuse, by its kind."""
    kind = param.type
    if isinstance(kind, NumberOf):
        return NO_WHOLE_NUMBERS if kind.parse is int else [*NO_NUMBERS, *TOO_LARGE]
    if isinstance(kind, CommaSeparated) and kind.kind is not None:
        return [value for value in (*NO_NUMBERS, *TOO_LARGE) if value != "1,2"] + ["1,,2", "1,x"]
    if isinstance(kind, OneOf):
        return ["nosuch", "", kind.choices[0] + "x"]
    if isinstance(kind, click.Path):
        return ["", " "]
    return NO_WORDS.get(param.name, [])


def bad_calls():
    for verb, valid in VALID.items():
        command = command_of(verb)
        yield verb, [*valid, "--nosuch"], "--nosuch"
        yield verb, [*valid, "one", "more", "and", "more"], "more"
        for param in command.params:
            if isinstance(param, click.Option) and param.is_flag:
                continue
            for value in bad_values(param):
                if isinstance(param, click.Option):
                    subject = ["timm:vit_tiny_patch16_224"] if verb == "predict" and param.name == "init" else valid
                    yield verb, [*subject, param.opts[0], value], param.opts[0]
                else:
                    yield verb, [value, *valid[1:]], value


def test_every_verb_has_a_call():
    groups = [verb for verb in VERBS if isinstance(command_of(verb), click.Group)]
    inner = [f"{verb} {name}" for verb in groups for name in command_of(verb).commands]
    assert set(VALID) == {*VERBS, *inner} - set(groups)


def test_every_parameter_is_tried():
    kept = {"way", "study", "store", "packed"}
    for verb in VALID:
        for param in command_of(verb).params:
            tried = bad_values(param) or param.name in {*kept, "scheduler"} or getattr(param, "is_flag", False)
            assert tried, f"{verb} {flag(param)}"


@pytest.mark.parametrize("verb", VALID)
def test_bad_calls_are_one_sentence(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = []
    for name, arguments, said in bad_calls():
        if name != verb:
            continue
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = CliRunner().invoke(main, [*verb.split(), *arguments])
        own = [entry for entry in warned if "criticality" in entry.filename]
        error = result.stderr
        if (
            result.exit_code != 2
            or not error.startswith("criticality: ")
            or error.count("\n") != 1
            or len(error) > 310
            or result.stdout
            or own
            or [*Path().iterdir()]
            or not _names(said, error)
        ):
            failed.append((arguments, result.exit_code, error, repr(result.exception), [str(w.message) for w in own]))
    assert not failed, "\n".join(map(str, failed))


def _names(said, error):
    """Whether the flag is named, as the option or as what the library calls it, or the file that is not there."""
    words = {"--function": "function", "--norm": "norm", "--init": "init", "--only": "claim"}
    return said in error or said.strip("-") in error or "'x.py'" in error or words.get(said, said) in error


BASE = {
    "predict resnet": ("predict", ["resnet"]),
    "predict MODEL": ("predict", TINY),
    "classify --function": ("classify", ["--function", "tanh"]),
    "classify MODEL": ("classify", TINY),
    "measure --between": ("measure", [*TINY, "--between"]),
    "measure --from": ("measure", [*TINY, "--from", "0"]),
    "phases block": ("phases", ["block"]),
    "train without --prescription": ("train", ["digits"]),
    "train on a task with data of its own": ("train", ["digits"]),
    "--way exact": ("classify", [*TINY, "--way", "exact"]),
    "--way sampled": ("predict", [*TINY, "--way", "sampled"]),
    "compare of norms without alpha": ("compare", [*TINY, "--norm", "ln"]),
}
GOOD = {
    "init": "own",
    "way": "auto",
    "rho0": "0.5",
    "norm": "ln",
    "text": "bytes",
    "target": "2",
    "kind": "constant",
    "mode": "training",
    "data_root": "x",
}


@pytest.mark.parametrize("subject", DOES_NOT_APPLY)
def test_flags_that_do_not_apply_are_refused(subject):
    verb, arguments = BASE[subject]
    params = {param.name: param for param in command_of(verb).params}
    names = [name for name in DOES_NOT_APPLY[subject] if name in params]
    assert names
    for name in names:
        option = params[name].opts[0]
        result = CliRunner().invoke(main, [verb, *arguments, option, GOOD.get(name, "30")])
        assert result.exit_code == 2
        assert option in result.stderr
        assert "must be left out" in result.stderr


def test_warnings_of_libraries_reach_nobody(tmp_path, monkeypatch):
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import warnings, torch\n"
        "def build():\n"
        "    for module in ('torch.jit', 'transformers.modeling', 'noisy'):\n"
        "        warnings.warn_explicit(f'said by {module}', FutureWarning, 'file.py', 1, module=module)\n"
        "    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)\n"
        "    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)\n"
        "def inputs(model):\n"
        "    return torch.randn(2, 3, 8)\n"
    )
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert CliRunner().invoke(main, ["stream", f"module:{noisy}:build"]).exit_code == 0
    assert {str(one.message) for one in told} == {"said by noisy"}


def test_what_is_no_config_and_no_file(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "own.py").write_text("def turned(x):\n    return x * 1j\n")
    for arguments, said in (
        (["predict", f"hf:{tmp_path}/config.json"], "must be a config.json with a model_type"),
        (["predict", "hf:llama", "--image-size", "32"], "image_size=32 must be left out"),
        (["predict", "resnet", "--from", "1", "--way", "exact"], "--way='exact' must be left out of predict resnet"),
        (["moments", "--function", "tanh", "--out", str(tmp_path)], "is a folder"),
        (["moments", "--function", f"{tmp_path}/own.py:turned"], "must be real, and is complex"),
        (["zoo", "--out", f"{tmp_path}/own.py/zoo"], "own.py' is a file and no folder"),
        (["compare", *TINY, "--out", f"{tmp_path}/own.py"], "must be a folder, and is a file"),
        (["measure", *TINY, "--device", "nosuch"], "at start of device string: nosuch\n"),  # all of torch's sentence
    ):
        refused = CliRunner().invoke(main, arguments)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert said in refused.stderr


@pytest.mark.parametrize(
    ("key", "value"), [("vocab_size", 0), ("vocab_size", -3), ("num_hidden_layers", 0), ("hidden_size", 0)]
)
def test_sizes_of_a_config_that_are_none(key, value, tmp_path):
    """A vocabulary of 0 gave numbers."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", key: value}))
    refused = CliRunner().invoke(main, ["predict", f"hf:{tmp_path}/config.json"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert f"{key}={value} in the config" in refused.stderr


def test_one_seed_has_no_error_and_says_so():
    shown = CliRunner().invoke(main, ["measure", *TINY, "--seeds", "1"])
    assert "(one seed: no standard error)" in shown.stdout
    assert "nan" not in shown.output


def test_nothing_and_a_word_too_near():
    shown = CliRunner().invoke(main, [])
    assert shown.exit_code == 0
    assert shown.stdout.count("criticality ") >= 5
    assert "did you mean 'predict'" in CliRunner().invoke(main, ["pedict"]).stderr


OWN = {
    "raises on import": ("import nothing_of_that_name\n", "own.py:1"),
    "is no Python": ("def f(:\n", "own.py:1"),
    "raises when built": ("def f():\n    return 1 / 0\n", "ZeroDivisionError: division by zero ("),
    "raises for its inputs": (
        "from torch import nn\ndef f():\n    return nn.Linear(2, 2)\ndef inputs(model):\n    raise KeyError('no')\n",
        "KeyError: 'no' (",
    ),
    "ends the process": ("import sys\ndef f():\n    sys.exit(3)\n", "SystemExit: 3 ("),
    "returns no module": ("def f():\n    return 3\n", "must return a torch module"),
    "raises when run": (
        "import torch\nfrom torch import nn\nclass M(nn.Linear):\n    def forward(self, x):\n"
        "        raise ArithmeticError('mine')\n"
        "def f():\n    return M(2, 2)\ndef inputs(model):\n    return torch.ones(1, 2)\n",
        "ArithmeticError: mine (",
    ),
}


@pytest.mark.parametrize("what", OWN)
@pytest.mark.parametrize("verb", ["measure", "stream", "predict"])
def test_whose_code_raised_is_said(verb, what, tmp_path):
    code, said = OWN[what]
    path = tmp_path / "own.py"
    path.write_text(code)
    result = CliRunner().invoke(main, [verb, f"module:{path}:f"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    if said.endswith("("):
        assert "own.py:" in result.stderr


def test_a_share_that_cannot_be_is_named_as_it_was_given():
    refused = CliRunner().invoke(main, ["prescribe", *TINY, "--target", "share=2"])
    assert (refused.exit_code, "target='share=2'" in refused.output) == (2, True)
