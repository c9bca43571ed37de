"""Modules that have left the library: importing one says where it is now."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

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
