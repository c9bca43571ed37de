"""Composite functions of torch, opened: run so that a torch function mode sees the calls inside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def composite(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is a Python function of torch, whose inner calls a mode would not see.

    Methods of ``Tensor`` are left out, as they call themselves by way of their base class, and so are functions that choose
    between others and do not ask themselves.
    """
    return isinstance(func, FunctionType) and _asks(func)


@cache
def _asks(func: FunctionType) -> bool:
    return func.__module__ in ("torch.nn.functional", "torch.functional") and any(
        name in func.__code__.co_names for name in _ASKS
    )


@cache
def opened(func: FunctionType) -> FunctionType:
    """``func`` that does not ask whether a mode is active, and so runs its own body instead of handing itself over.

    torch takes a mode off the stack while the mode's ``__torch_function__`` runs, so that a Python composite, such as
    ``multi_head_attention_forward``, hides what it calls.  The copy returned here, called with the mode entered
    again (``with self: return opened(func)(*args, **kwargs)``), hands only the calls inside to the mode.

    Raises:
        TypeError: ``func`` is no Python function.
    """
    if not isinstance(func, FunctionType):
        raise TypeError(f"{func!r} is not written in Python: there is nothing inside it to see")
    silent = {name: _never for name in _ASKS if name in func.__globals__}
    copy = FunctionType(
        func.__code__, {**func.__globals__, **silent}, func.__name__, func.__defaults__, func.__closure__
    )
    copy.__kwdefaults__ = func.__kwdefaults__
    copy.__module__, copy.__doc__ = func.__module__, func.__doc__
    return copy


def _never(*tensors: Any) -> bool:
    return False
