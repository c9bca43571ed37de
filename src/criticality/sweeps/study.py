"""A study says which networks are looked at and what is computed of each; a cell is one network of it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from criticality import __version__
from criticality.arguments import Positive, check, checked
from criticality.errors import ArgumentError, CriticalityError, FileError
from criticality.extras import require
from criticality.schema import source_digest

__all__ = [
    "Cell",
    "Study",
    "Values",
    "read_study",
]

Cell = dict[str, Any]
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Study:
    """A list of networks, every combination of some parameters, and what is computed of each of them.

    Attributes:
        name: of the study.
        compute: ``predict`` (theory of a residual net or a model), ``measure`` (a model), ``train`` (the laboratory), ``initial``
            (a stacked task of the laboratory before its first step), or ``module:PATH.py:FUNCTION``, a function of a cell that
            returns a number or a dict of numbers and arrays.
        grid: values of each parameter; cells are all combinations.
        fixed: parameters that are the same in all cells.
        cases: alternatives to be crossed with the grid, each a set of parameters, for those that do not cross (a norm without
            alpha).
        memory_gb: data that a cell may allocate, none if ``None``.
        search: name of a grid parameter of which not every value is computed, but those that ``search.next_value`` asks for;
            such a study runs in one process (``workers=0``).
    """

    name: str
    compute: str
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[Mapping[str, Any], ...] = ({},)
    memory_gb: float | None = None
    search: str = ""

    def __post_init__(self) -> None:
        for field_name, kind, what in (
            ("name", str, "text"),
            ("compute", str, "text"),
            ("grid", Mapping, "a mapping of lists"),
            ("fixed", Mapping, "a mapping"),
            ("cases", (list, tuple), "a list of mappings"),
            ("search", str, "text"),
        ):
            if not isinstance(getattr(self, field_name), kind):
                raise ArgumentError(f"study's {field_name}={getattr(self, field_name)!r} must be {what}")
            if kind is str:
                check(str, f"study's {field_name}", getattr(self, field_name))
        if not self.name or "/" in self.name:
            raise ArgumentError(f"study's name={self.name!r} must be a name, without '/'")
        if self.compute not in ("predict", "measure", "train", "initial") and not self.compute.startswith("module:"):
            raise ArgumentError(
                f"compute={self.compute!r} must be 'predict', 'measure', 'train', 'initial' or 'module:PATH.py:FUNCTION'"
            )
        for name, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ArgumentError(f"grid {name!r} must be a list of values, got {values!r}")
        for case in self.cases:
            if not isinstance(case, Mapping):
                raise ArgumentError(f"study's cases must each be a mapping, and one is {case!r}")
        for name in (*self.grid, *self.fixed, *(name for case in self.cases for name in case)):
            if not isinstance(name, str):
                raise ArgumentError(f"study's parameter {name!r} must have a name that is text")
        for name in self.grid:
            if name in self.fixed or any(name in case for case in self.cases):
                raise ArgumentError(f"study's parameter {name!r} must be in the grid or beside it, and is in both")
        try:
            json.dumps([dict(self.grid), dict(self.fixed), [dict(case) for case in self.cases]])
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"study's parameters must be numbers, text, lists and mappings: {error}") from error
        if self.search and self.search not in self.grid:
            raise ArgumentError(
                f"search={self.search!r} must be a parameter of the grid, {', '.join(self.grid) or 'none'}"
            )
        check(Positive | None, "memory_gb", self.memory_gb)

    def cells(self) -> Iterator[Cell]:
        """Every cell, in the order of the grid."""
        for case in self.cases:
            for values in itertools.product(*self.grid.values()):
                yield {**self.fixed, **case, **dict(zip(self.grid, values, strict=True))}

    def key(self) -> str:
        """Of the study's content, of the library's version and of the code that computes it."""
        text = json.dumps(
            [self.record(), __version__, source_digest(*_COMPUTING), _own_code(self.compute)], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """As it is in YAML."""
        return {
            "name": self.name,
            "compute": self.compute,
            "grid": {name: list(values) for name, values in self.grid.items()},
            "fixed": dict(self.fixed),
            "cases": [dict(case) for case in self.cases],
            "memory_gb": self.memory_gb,
            "search": self.search,
        }


_COMPUTING = ("pointwise", "theory", "measurement", "models", "phases", "prescription", "laboratory")


def _own_code(compute: str) -> str:
    """Digest of a user's file."""
    if not compute.startswith("module:"):
        return ""
    path = Path(compute.removeprefix("module:").rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@checked
def read_study(path: str | Path) -> Study:
    """Read a study from YAML.

    Raises:
        ValueError: no such file, not YAML, or not a study.
    """
    file = Path(path)
    if not file.is_file():
        raise FileError(f"study {str(file)!r} must exist, and does not")
    yaml = require("yaml")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _loader(yaml))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"study {str(file)!r} must be YAML: {error}") from error
    known = set(Study.__dataclass_fields__)
    if not isinstance(content, dict) or not {"name", "compute"} <= set(content) <= known:
        unknown = [key for key in content if key not in known] if isinstance(content, dict) else []
        found = f", and holds {unknown[0]!r}" if unknown else ""
        raise FileError(
            f"study {str(file)!r} must hold name and compute, and of {', '.join(sorted(known))} only{found}"
        )
    described = {key: value for key, value in content.items() if value is not None}
    try:
        return Study(**{**described, "cases": described.get("cases") or ({},)})
    except (CriticalityError, TypeError) as error:
        raise FileError(f"study {str(file)!r}: {error}") from error


def _loader(yaml: Any) -> Any:
    """YAML's safe loader, which takes the last of two equal keys, made to refuse them."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen:
                    raise yaml.YAMLError(f"key {name!r} is given twice, second in line {key.start_mark.line + 1}")
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader
