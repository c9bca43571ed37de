"""No module is over 400 lines, no function over 60, its docstring included; a table is longer only where it is named here."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("src", "examples", "benchmarks", "docs", "tests") for path in (ROOT / room).rglob("*.py")]
TABLES = {("benchmarks/families/exceptions.py", "fields_of")}
"""Of one entry after another, which are read as such."""

MODULE, FUNCTION = 400, 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def long_functions(source: str) -> list[str]:
    """Names of those with more lines than are allowed, from ``def`` to the last; decorators, the options of a verb, are a table."""
    functions = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [one.name for one in functions if (one.end_lineno or 0) - one.lineno + 1 > FUNCTION]


def test_modules():
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: size for name, size in sizes.items() if size > MODULE} == {}


def test_functions():
    found = {(name_of(path), name) for path in FILES for name in long_functions(path.read_text(encoding="utf-8"))}
    assert found == TABLES


def test_a_long_one_would_be_seen():
    body = "    pass\n" * FUNCTION
    assert long_functions(f"@one\ndef short():\n{body[9:]}\nasync def long():\n{body}") == ["long"]
