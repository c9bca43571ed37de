"""Names of earlier versions: what has left the library or is called otherwise says where it is now."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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

RENAMED = {
    "criticality.measurement": {
        "ResidualPoint": "criticality.stream.Point",
        "residual_points": "criticality.stream.stream",
    },
    "criticality.models": {
        "HuggingFaceDescription": "criticality.models.HuggingFaceSpec",
        "InitializationRecorder": "criticality.weightless.laws_of(build_without_weights(factory))",
        "ModelDescription": "criticality.models.ModelSpec",
        "OwnDescription": "criticality.models.OwnSpec",
        "ViTDescription": "criticality.models.ViTSpec",
        "describe_model": "criticality.models.model_spec",
        "embedding_kernels": "criticality.measurement.input_kernels",
        "huggingface_network": "criticality.reader.read_network",
        "vit_network": "criticality.reader.read_network",
    },
    "criticality.phases": {"equivalent_tokens": "criticality.theory.SymmetricKernel.mean_of"},
    "criticality.studies.compare": {"TOLERANCE": "criticality.studies.agreement.tolerance_of"},
    "criticality.sweeps.store": {"Result": "criticality.sweeps.compute.Computed"},
    "criticality.theory": {"mean_description": "criticality.theory.mean_network"},
}
"""Names that packages and modules had in version 0.1, and what takes their place."""


class MovedModules:
    """Asked last, of what no other finder knows (``sys.meta_path``): modules, and by ``from package import name`` names."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Never a module.

        Raises:
            ModuleNotFoundError: for one that has moved, with the place where it is.
            ImportError: for a name of a package that is called otherwise now.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} is no longer in the library: it is {MOVED[name]} of its repository")
        package, _, last = name.rpartition(".")
        if successor := RENAMED.get(package, {}).get(last):
            raise ImportError(f"cannot import name {last!r} from {package!r}: it is {successor} since version 0.2")
        return None


def renamed(module: str, name: str) -> Exception:
    """What to raise for a name that a module does not have.

    Of a package an ``AttributeError``: ``from package import name`` then asks ``MovedModules``. Of a module, which asks nobody,
    an ``ImportError`` where there is a successor."""
    successor = RENAMED.get(module, {}).get(name)
    now = f": it is {successor} since version 0.2" if successor else ""
    if successor and not hasattr(sys.modules[module], "__path__"):
        return ImportError(f"cannot import name {name!r} from {module!r}{now}")
    return AttributeError(f"module {module!r} has no attribute {name!r}{now}")


def renamed_names(module: str) -> Callable[[str], Any]:
    """``__getattr__`` of a module some of whose names are called otherwise now."""

    def get(name: str) -> Any:
        raise renamed(module, name)

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
