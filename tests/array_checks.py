"""A type checker for jaxtyping's import hook that looks at arrays only: dtypes, and equal sizes for equal names of axes."""

from functools import cache, wraps
from inspect import signature
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray


def arrays(function):
    """The function, with its arrays checked against their annotations before and after."""
    order = signature(function)

    @cache
    def hints():
        return {name: hint for name, hint in get_type_hints(function).items() if _of_arrays(hint)}

    @wraps(function)
    def call(*arguments, **named):
        for name, value in order.bind(*arguments, **named).arguments.items():
            _check(name, hints().get(name), value)
        found = function(*arguments, **named)
        _check("what is returned", hints().get("return"), found)
        return found

    return call


def _of_arrays(hint):
    return any(isinstance(one, type) and issubclass(one, AbstractArray) for one in _choices(hint))


def _choices(hint):
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _check(name, hint, value):
    given = np.asarray(value) if isinstance(value, np.generic) else value  # an array without axes
    if hint is not None and not any(isinstance(given, one) for one in _choices(hint)):
        raise TypeError(
            f"{name} must be {hint}, got {getattr(given, 'dtype', '')} of shape {getattr(given, 'shape', given)}"
        )
