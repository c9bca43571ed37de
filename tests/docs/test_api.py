"""The API page is made from ``__all__``: of every package, and of every module whose names are public."""

import re
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from pkgutil import iter_modules

import pytest

import criticality

PAGES = Path(__file__).parents[2] / "docs" / "api"
MODULES = [
    module for page in sorted(PAGES.glob("*.md")) for module in re.findall(r"automodule:: ([\w.]+)", page.read_text())
]


@pytest.mark.parametrize("module", MODULES)
def test_names_are_listed_and_say_what_they_are(module):
    listed = {name: getattr(import_module(module), name) for name in import_module(module).__all__}
    made = {name: one for name, one in listed.items() if isclass(one) or isfunction(one)}
    assert [name for name, one in made.items() if not (one.__doc__ or "").strip()] == []


def test_every_package_is_there():
    packages = {f"criticality.{found.name}" for found in iter_modules(criticality.__path__) if found.ispkg}
    listed = {name for name in packages if getattr(import_module(name), "__all__", None)}
    assert listed - {*MODULES} == {"criticality.laboratory", "criticality.studies", "criticality.sweeps"}


def test_what_these_three_list_is_on_the_pages_of_their_modules():
    text = "\n".join(page.read_text() for page in PAGES.glob("*.md"))
    alone = set(re.findall(r"auto(?:function|class):: [\w.]+\.(\w+)", text))
    shown = alone | {name for module in MODULES for name in import_module(module).__all__}
    for package in ("laboratory", "studies", "sweeps"):
        assert set(import_module(f"criticality.{package}").__all__) <= shown


def test_no_page_chooses_for_itself():
    assert [page.name for page in PAGES.glob("*.md") if re.search(r":members: *\w", page.read_text())] == []
