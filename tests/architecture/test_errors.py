"""What the library refuses is of a kind that code can catch, and nobody takes a bare ``ValueError`` for it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("src", "examples") for path in sorted((ROOT / room).rglob("*.py"))]


def raised(tree):
    """Names of what is raised by calling it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            yield node.exc.func.id


def own_code(tree):
    """Names that are imported from the library, and functions and classes of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("criticality"):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def swallowed(tree):
    """Lines of handlers of ``ValueError`` around calls of such code."""
    own = set(own_code(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        called = {one.func.id for part in node.body for one in ast.walk(part) if is_named_call(one)}
        for handler in node.handlers:
            kinds = {one.id for one in ast.walk(handler.type or node) if isinstance(one, ast.Name)}
            if "ValueError" in kinds and called & own:
                yield handler.lineno


def is_named_call(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.fixture(scope="module")
def trees():
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in FILES}


def test_no_bare_value_error_is_raised(trees):
    assert [path for path, tree in trees.items() if {"ValueError", "Exception"} & {*raised(tree)}] == []


def test_no_refusal_of_the_library_is_caught_as_a_value_error(trees):
    assert [f"{path}:{line}" for path, tree in trees.items() for line in swallowed(tree)] == []


def test_one_would_be_seen():
    code = "from criticality import measure\ntry:\n    measure(1)\nexcept (KeyError, ValueError):\n    pass\n"
    assert list(swallowed(ast.parse(code))) == [4]
    assert list(swallowed(ast.parse(code.replace("ValueError", "OSError")))) == []
