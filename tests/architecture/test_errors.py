"""What the library refuses is of a kind that code can catch."""

import ast
from pathlib import Path

import criticality

ROOT = Path(criticality.__file__).parent


def raised_names():
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                yield file.relative_to(ROOT), node.exc.func.id


def test_no_bare_value_error_is_raised():
    bare = [f"{file}: {name}" for file, name in raised_names() if name in ("ValueError", "Exception")]
    assert not bare
