"""A pointwise function by what people call it: built-in, of the zoo, or in a file of one's own."""

from __future__ import annotations

import copyreg
from functools import lru_cache
from typing import Any

from criticality.arguments import check, checked, meant
from criticality.errors import ArgumentError, UnknownNameError
from criticality.pointwise.function import PointwiseFunction, pointwise_function
from criticality.pointwise.library import ALIASES, FUNCTIONS
from criticality.pointwise.zoo import ZOO
from criticality.python_file import load_name


@checked
def get_function(name: str) -> PointwiseFunction:
    """The built-in function of that name, one of the zoo, an alias (``dyt`` is tanh, ``derf`` erf, ``swish`` silu), or one's own.

    One's own is ``PATH.py:NAME``, a callable on arrays or a ``PointwiseFunction``; its kinks are found, or declared as in
    ``PATH.py:NAME@kinks=-1,1`` (``@kinks=`` for none).

    Raises:
        ValueError: for an unknown name, or a file or function that cannot be used.

    >>> get_function("dyt").name
    'tanh'
    """
    check(str, "function", name)
    if ".py:" in name:
        return own_function(name)
    key = name.lower()
    key = ALIASES.get(key, key)
    if key in FUNCTIONS:
        return FUNCTIONS[key]
    if key in ZOO:
        return ZOO[key]
    raise UnknownNameError(
        f"function {name!r} is unknown{meant(key, [*FUNCTIONS, *ZOO, *ALIASES])}; allowed are"
        f" {', '.join(sorted({*FUNCTIONS, *ALIASES}))}, the {len(ZOO)} of criticality zoo, and PATH.py:NAME"
    )


def _reduced(phi: PointwiseFunction) -> str | tuple[Any, ...]:
    """A function that has a name here is pickled by it, as what it computes with is made of lambdas."""
    known = FUNCTIONS.get(phi.name, ZOO.get(phi.name))
    return (get_function, (phi.name,)) if phi is known else object.__reduce_ex__(phi, 4)


copyreg.pickle(PointwiseFunction, _reduced)


@lru_cache(maxsize=64)
def own_function(text: str) -> PointwiseFunction:
    """The function of ``PATH.py:NAME`` or ``PATH.py:NAME@kinks=NUMBER,...``.

    Raises:
        ValueError: no such file or name, kinks that are not numbers, or a function that is not one of arrays.
    """
    place, at, options = text.partition("@")
    kinks: tuple[float, ...] | None = None
    if at:
        key, _, values = options.partition("=")
        try:
            kinks = tuple(float(value) for value in values.split(",") if value.strip())
        except ValueError:
            kinks, key = None, ""
        if key != "kinks":
            raise ArgumentError(f"function {text!r} must be PATH.py:NAME or PATH.py:NAME@kinks=0,1.5, with numbers")
    found = load_name(place)
    if isinstance(found, PointwiseFunction):
        return found
    if not callable(found):
        raise ArgumentError(f"function {place!r} must be a function of an array, but is {type(found).__name__}")
    return pointwise_function(found, name=place.rpartition(":")[2], kinks=kinks)
