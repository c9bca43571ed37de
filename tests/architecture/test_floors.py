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


def floors() -> dict[str, int]:
    """The floor of each room, as the map has it."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {room.strip(" `"): int(number) for number, rooms in rows for room in rooms.split(",")}


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


def room_of(module: str) -> str:
    """The room that a module of the library is in; empty for what is in none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "criticality" and len(parts) > 1 and (SOURCE / parts[1]).is_dir() else ""


def test_the_map_names_every_room():
    assert floors().keys() == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def test_imports_go_down():
    floor, wrong = floors(), []
    for room in floor:
        for path in sorted((SOURCE / room).rglob("*.py")):
            for module, line in imports_of(path):
                target = room_of(module)
                if target and target != room and floor[target] >= floor[room]:
                    wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["stream", "measurement", "weightless"])
def test_what_is_measured_knows_no_theory(room: str):
    theory = {"pointwise", "theory", "phases"}
    found = {module for path in (SOURCE / room).rglob("*.py") for module, _ in imports_of(path)}
    assert not theory & {room_of(module) for module in found}


_DOORS = {"__init__.py", "__main__.py"}
"""Of the package: its table of contents, and ``python -m criticality``."""


def test_what_is_in_no_room_imports_none():
    wrong = [
        f"{path.name}:{line} imports {module}"
        for path in SOURCE.glob("*.py")
        if path.name not in _DOORS
        for module, line in imports_of(path)
        if room_of(module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["pointwise", "theory", "phases"])
def test_theory_knows_no_torch(package: str):
    known = {"criticality", "numpy", "scipy", "xarray"}
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
