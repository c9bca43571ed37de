"""Functions of ``torch.nn.functional`` that hide the calls inside them from a function mode, opened."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

_UNSEEN = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def opened(func: Any) -> Callable[..., Any] | None:
    """A copy of a Python function of ``torch.nn.functional`` that does not hand itself to the active mode.

    Called with the mode active, the copy shows the mode the builtin calls inside it.  ``None`` for builtins, which have
    nothing inside, and for functions from elsewhere.
    """
    return _copy(func) if isinstance(func, FunctionType) else None


@cache
def _copy(func: FunctionType) -> Callable[..., Any] | None:
    if func.__module__ != "torch.nn.functional" or not set(_UNSEEN) & set(func.__code__.co_names):
        return None
    names = {**func.__globals__, **dict.fromkeys(_UNSEEN, _never)}
    copy = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _never(*tensors: Any) -> bool:
    return False
