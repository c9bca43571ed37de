"""The table of what to do with a call that takes a random weight: one rule for each family of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Any]
"""``rule(run, func, *args, **kwargs)``: the result of ``func(*args, **kwargs)``, or ``NotImplemented``: draw the weight."""

RULES: dict[Any, Rule] = {}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register a rule for functions of torch, as a torch function mode is given them."""

    def register(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, found))
        return found

    return register


def named(*names: str) -> list[Any]:
    """Functions and methods of these names, as many of ``torch.name`` and ``Tensor.name`` as there are."""
    return [getattr(where, name) for name in names for where in (torch, Tensor) if hasattr(where, name)]


def getters(*names: str) -> list[Any]:
    """The getters of these properties of a tensor."""
    return [getattr(Tensor, name).__get__ for name in names if hasattr(Tensor, name)]
