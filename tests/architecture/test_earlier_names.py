"""Every public name of version 0.1 (``tests/data/public_names_0_1.json``) works, or raises an error that names its successor."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from criticality.models import OwnSpec, model_spec
from criticality.moved import MOVED
from criticality.pointwise import Pointwise
from criticality.prescription import Change, Prescription
from criticality.theory import MLP, Attention, GatedMLP

ROOT = Path(__file__).parents[2]
NAMES = json.loads((ROOT / "tests" / "data" / "public_names_0_1.json").read_text())
LEFT = [module for module in NAMES if module in MOVED]


def found(path):
    """What a dotted name says, its module first."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(path)


def has(module, name):
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def gone(module):
    """What a module had, and has no more."""
    return [name for name in NAMES[module].split() if not has(module, name)]


@pytest.mark.parametrize("module", [module for module in NAMES if module not in LEFT])
def test_names(module):
    for name in gone(module):
        with pytest.raises((AttributeError, ImportError), match=r"it is [\w.]+.* since version 0\.2$") as raised:
            getattr(import_module(module), name)
        (successor,) = re.findall(r"it is ([\w.]+)", str(raised.value))
        assert callable(found(successor))
        with pytest.raises(ImportError, match=rf"cannot import name '{name}' .*it is {re.escape(successor)}"):
            exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", LEFT)
def test_modules_that_left(module):
    with pytest.raises(ModuleNotFoundError, match=rf"it is {MOVED[module]} of its repository"):
        import_module(module)
    assert (ROOT / MOVED[module]).exists()


BEFORE = {
    MLP: "in_variance out_variance in_bias_variance out_bias_variance",
    GatedMLP: "gate_variance up_variance out_variance gate_bias_variance up_bias_variance out_bias_variance",
    Attention: "query_variance key_variance value_variance output_variance"
    " query_bias_variance key_bias_variance value_bias_variance output_bias_variance",
    Change: "tensors",
    Prescription: "alphas final_alpha branch_scale gain",
}


@pytest.mark.parametrize("kind", BEFORE)
def test_fields(kind):
    for name in BEFORE[kind].split():
        with pytest.raises(ValueError, match=rf"{name} of {kind.__name__} must be given as .* since version 0\.2"):
            kind(**{name: 1.0})


def test_reading():
    specs = (model_spec("timm:vit_tiny_patch16_224"), model_spec("hf:bert"), OwnSpec(f"{__file__}:found"))
    parts = ((MLP(Pointwise("relu")), "in_variance"), (Attention(), "queries"), (Attention(), "key_variance"))
    for one, name in (*parts, *((spec, "describe") for spec in specs)):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}': it is .* since version 0\.2"):
            getattr(one, name)


def test_the_table_of_the_changelog():
    """Every name that is gone, and every module that left, is in its first column."""
    rows = re.findall(r"^\| (`.*?) \| .* \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = [name for module in NAMES if module not in LEFT for name in gone(module)]
    modules = [name.rpartition(".")[2] for name in MOVED]
    assert [name for name in (*names, *modules) if not any(re.search(rf"\b{name}\b", row) for row in rows)] == []
