"""What is imported when it is first used: theory does not wait for torch, nor torch for timm, nor help for any of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from criticality.moved import renamed


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose ``modules`` hold the given names, or are names themselves.

    A name stays what is held, also where the module that holds it is called the same and is imported."""
    home = {name: module for module, names in modules.items() for name in names}
    _keep_names(package, set(home))

    def get(name: str) -> Any:
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        if name in modules:
            return import_module(f"{package}.{name}")
        raise renamed(package, name)

    return get, lambda: sorted({*home, *(module for module in modules if "." not in module)})


def _keep_names(package: str, names: set[str]) -> None:
    """Importing ``package.name`` makes the module an attribute of its package, in the place of what ``__getattr__`` would find."""

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in names and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package


class LazyModule:
    """A module that is imported when one of its names is first asked for."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(import_module(self._name), name)
        self.__dict__[name] = found
        return found


def lazy_module(name: str) -> Any:
    """In the place of ``import name``, for what takes long to import and is not always needed."""
    return LazyModule(name)
