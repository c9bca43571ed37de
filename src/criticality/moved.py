"""Names of earlier versions: what has left the library or is called otherwise says where it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

from criticality.errors import ArgumentError

T = TypeVar("T")

MOVED = {
    "criticality.reports.claims": "examples/paper/claims.py",
    "criticality.studies.claims": "examples/paper/claim",
    "criticality.studies.explorer": "examples/paper/explorer.py",
    "criticality.studies.outcome": "examples/paper/claim/outcome.py",
    "criticality.studies.plane": "examples/paper/plane.py",
    "criticality.studies.stability": "examples/paper/stability.py",
    "criticality.studies.verdicts": "examples/paper/claim/evidence.py",
}
"""What is the article's, and where it is in the repository."""


class MovedModules:
    """Asked last, of what no other finder knows (``sys.meta_path``)."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Never a module.

        Raises:
            ModuleNotFoundError: for one that has moved, with the place where it is.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} is no longer in the library: it is {MOVED[name]} of its repository")
        return None


def renamed_names(module: str, successors: Mapping[str, str]) -> Callable[[str], Any]:
    """``__getattr__`` of a module some of whose names are called otherwise now; asking for one is an error that says so."""

    def get(name: str) -> Any:
        now = f": it is {successors[name]} since version 0.2" if name in successors else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{now}")

    return get


def renamed_fields(**successors: str) -> Callable[[type[T]], type[T]]:
    """For a dataclass some of whose fields are called otherwise now: giving or reading one is an error that says so."""

    def decorate(cls: type[T]) -> type[T]:
        made = cls.__init__

        @wraps(made)
        def init(self: T, *arguments: Any, **named: Any) -> None:
            for name in named:
                if name in successors:
                    raise ArgumentError(
                        f"{name} of {cls.__name__} must be given as {successors[name]} since version 0.2"
                    )
            made(self, *arguments, **named)

        def get(self: T, name: str) -> Any:
            now = f": it is {successors[name]} since version 0.2" if name in successors else ""
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}{now}")

        setattr(cls, "__init__", init)  # noqa: B010
        setattr(cls, "__getattr__", get)  # noqa: B010
        return cls

    return decorate
