"""Imports go down the map of CONTRIBUTING only, and the core imports nothing that an extra brings."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from criticality.extras import EXTRA_OF

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "criticality"


def chains() -> list[list[str]]:
    """The arrows of the map: two feet, and the floors that stand on both."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    found = re.search(r"arrows only: (.+?)\. ", text)
    assert found, "CONTRIBUTING.md must say which imports are allowed"
    return [[floor.strip() for floor in part.split("→")] for part in found[1].split(";")]


def below() -> dict[str, set[str]]:
    """Of each floor those that it may import from, itself included."""
    *feet, upper = chains()
    allowed: dict[str, set[str]] = {}
    for foot in feet:
        allowed |= {floor: set(foot[: number + 1]) for number, floor in enumerate(foot)}
    both = {floor for foot in feet for floor in foot}
    return allowed | {floor: both | set(upper[1 : number + 1]) for number, floor in enumerate(upper) if number}


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports at any place, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("lazy_module", "import_module"):
            yield from ((str(one.value), node.lineno) for one in node.args if isinstance(one, ast.Constant))


def floor_of(module: str) -> str:
    """The floor that a module of the library is on; empty for what belongs to no floor."""
    parts = module.split(".")
    return parts[1] if parts[0] == "criticality" and len(parts) > 1 and (SOURCE / parts[1]).is_dir() else ""


def test_the_map_names_every_floor():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert below().keys() == packages


def test_imports_go_down():
    allowed, wrong = below(), []
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE).parts
        floor = inside[0] if len(inside) > 1 else ""
        for module, line in imports_of(path):
            target = floor_of(module)
            if target and floor and target not in allowed[floor]:
                wrong.append(f"{'/'.join(inside)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


_DOORS = {"__init__.py", "__main__.py"}
"""Of the package: its table of contents, and ``python -m criticality``."""


def test_what_belongs_to_no_floor_imports_none():
    wrong = [
        f"{path.name}:{line} imports {module}"
        for path in SOURCE.glob("*.py")
        if path.name not in _DOORS
        for module, line in imports_of(path)
        if floor_of(module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["pointwise", "theory", "phases"])
def test_theory_knows_no_torch(package: str):
    known = {"criticality", "numpy", "scipy", "jaxtyping", "xarray"}
    for path in (SOURCE / package).rglob("*.py"):
        for module, line in imports_of(path):
            name = module.split(".")[0]
            assert name in known or name in __import__("sys").stdlib_module_names, f"{path}:{line} imports {module}"


def test_extras_are_imported_inside_functions_and_asked_for_by_name():
    """At the top of a module they would be missing without a word."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asked = {
            node.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("require", "folder_of")
            if isinstance(node.args[0], ast.Constant)
        }
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in {one.split(".")[0] for one in names} & EXTRA_OF.keys():
                if id(node) in top or name not in asked:
                    wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_extras_bring_what_is_said():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    distribution = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "distributed": "dask"}
    name = re.compile(r"[\w-]+")
    core = {name.match(one)[0] for one in project["dependencies"]}
    for package, extra in EXTRA_OF.items():
        brought = {name.match(one)[0] for one in project["optional-dependencies"][extra]}
        assert distribution.get(package, package) in brought - core
