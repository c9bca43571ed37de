"""The examples use what any user could: names in the ``__all__`` of a package or of a module."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").rglob("*.py"))


def imported(source):
    """Module and name of everything imported from the library, with ``None`` for a module itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "criticality":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "criticality")


def is_public(module, name):
    if name is None or (name.startswith("_") and name != "__version__"):
        return module == "criticality"
    return name in getattr(import_module(module), "__all__", ())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_imported(script):
    internal = [pair for pair in imported(script.read_text()) if not is_public(*pair)]
    assert not internal, f"not public: {internal}"


def test_an_internal_name_would_be_seen():
    source = (
        "import criticality.theory\nfrom criticality.phases.maps import critical_line\nfrom criticality.theory import T"
    )
    assert [is_public(*pair) for pair in imported(source)] == [False, False, False]
    assert is_public("criticality.schema", "write_text")
    assert not is_public("criticality.schema", "_LONG_NAMES")


@pytest.mark.parametrize(
    "statement",
    [
        "import criticality.studies.claims",
        "from criticality.studies import stability",
        "from criticality.studies.plane import read_panels",
        "from criticality.studies.training import kept_trainings",
        "from criticality.reports.claims import claim_figure",
    ],
)
def test_what_has_moved_says_where_it_is(statement):
    with pytest.raises(ImportError, match=r"no longer in the library: it is .*examples/paper"):
        exec(statement)


def test_what_has_moved_is_where_it_is_said_to_be():
    from criticality.moved import MOVED

    assert [place for place in MOVED.values() if not (ROOT / place).exists()] == []
