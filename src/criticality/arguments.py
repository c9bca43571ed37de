"""What arguments may be, said by their annotations: one check for each kind, at the border of the library.

``checked`` reads the annotations of a function, ``check_fields`` those of a dataclass; the kinds of numbers below carry their
bounds, and the command line parses its options by the same kinds.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import os
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

from criticality.errors import ArgumentError, CriticalityError

F = TypeVar("F", bound=Callable[..., Any])

LARGEST = 1e24
"""Of a number, in either direction: its square, times a variance, stays far from the largest float64."""

LARGEST_VARIANCE = 1e200
DEEPEST = 1_000_000
"""Layers that are kept one by one; ``criticality.phases`` follows any depth without."""


@dataclass(frozen=True)
class Number:
    """A finite number within bounds, ``low`` excluded where ``above``."""

    what: str = "number"
    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuse another.

        Raises:
            CriticalityError: naming the argument, its value and what is allowed.
        """
        number = _float(value) if is_real(value) else math.nan
        if not (self.low <= number <= self.high) or (self.above and number == self.low):
            beyond = f", at most {self.high:g}" if math.isfinite(number) and abs(number) > self.high >= LARGEST else ""
            raise _wrong(name, value, self.allowed() + beyond)

    def allowed(self) -> str:
        """In words."""
        if self.low == -self.high:
            return f"a {self.what} in [{self.low:g}, {self.high:g}]" if self.high < LARGEST else f"a finite {self.what}"
        return f"a finite {self.what}" + (f" above {self.low:g}" if self.above else f", {self.low:g} or above")


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    low: int = 1
    high: int = 2**53
    even: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuse another.

        Raises:
            CriticalityError: naming the argument, its value and what is allowed.
        """
        whole = isinstance(value, (Integral, np.integer)) and not isinstance(value, bool)
        if not whole or not self.low <= value <= self.high or (self.even and value % 2):
            beyond = f", at most {self.high}" if whole and value > self.high else ""
            raise _wrong(name, value, self.allowed() + beyond)

    def allowed(self) -> str:
        """In words."""
        return f"{'an even' if self.even else 'a whole'} number, {self.low} or above"


VARIANCE = Number("variance", low=0, high=LARGEST_VARIANCE)
CORRELATION = Number("correlation", low=-1, high=1)

Finite = Annotated[float, Number()]
Positive = Annotated[float, Number(low=0, above=True)]
NotNegative = Annotated[float, Number(low=0)]
Variance = Annotated[float, VARIANCE]
Scale = Annotated[float, Number("variance", low=0, high=LARGEST**2)]
"""Of weights and biases, ``fan_in Var(W)``: the square of a number."""

Start = Annotated[float, Number("variance", low=0, high=LARGEST_VARIANCE, above=True)]
"""Variance of an input, in recursions of its logarithm."""

Correlation = Annotated[float, CORRELATION]
Count = Annotated[int, Whole()]
Covariance = Annotated[float, Number(low=-LARGEST_VARIANCE, high=LARGEST_VARIANCE)]
Size = Annotated[int, Whole(high=10_000_000)]
"""Of a dimension: channels, tokens, pixels."""

Threads = Annotated[int, Whole(high=1024)]
Depth = Annotated[int, Whole(high=DEEPEST)]
Samples = Annotated[int, Whole(low=2, high=1_000_000, even=True)]
Seed = Annotated[int, Whole(low=0, high=2**31 - 1)]


def numbers_within(kind: Number, name: str, values: ArrayLike) -> np.ndarray:
    """The values as a float64 array, each of that kind.

    Raises:
        CriticalityError: naming the first that is not.
    """
    _check_array(name, values)
    array = np.asarray(values, dtype=float)
    fits = (array > kind.low if kind.above else array >= kind.low) & (array <= kind.high)
    if not fits.all():
        kind.check(name, float(array[~fits].flat[0]))
    return array


def shown(value: Any) -> str:
    """The value in a message, shortened where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:50]}... ({type(value).__name__})"


def meant(name: object, known: Iterable[str]) -> str:
    """``" (did you mean 'tanh'?)"`` for the known name that is nearest, nothing where none is near."""
    near = get_close_matches(str(name).lower(), sorted(set(known)), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse what is not one of ``allowed``.

    Raises:
        CriticalityError: naming those that are.
    """
    if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
        words = ", ".join(map(repr, allowed))
        raise _wrong(name, value, f"one of {words}{meant(value, map(str, allowed))}")


def checked(function: F) -> F:
    """The function, with every argument checked against its annotation before it is called."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        hints = _hints(function)
        for name, value in signature.bind(*arguments, **named).arguments.items():
            if name in hints and signature.parameters[name].kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                check(hints[name], name, value)
        return function(*arguments, **named)

    return call  # type: ignore[return-value]


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass against its annotation.

    Raises:
        CriticalityError: the first that is not what it must be.
    """
    for name, hint in _hints_of_fields(cast(Hashable, type(instance))):
        try:
            check(hint, name, getattr(instance, name))
        except CriticalityError as error:
            kind = type(instance).__name__
            raise ArgumentError(str(error).replace(" must be ", f" of {kind} must be ", 1)) from None


@cache
def _hints(target: Any) -> dict[str, Any]:
    return get_type_hints(target, include_extras=True)


@cache
def _hints_of_fields(kind: Hashable) -> tuple[tuple[str, Any], ...]:
    hints = _hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(cast(Any, kind)) if field.init)


def check(hint: Any, name: str, value: Any) -> None:
    """Check one value against an annotation; annotations that say nothing of the value pass.

    Raises:
        CriticalityError: naming the argument, its value and what is allowed.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if _is_array(hint):
        _check_array(name, value)
    elif origin is Annotated:
        inner[1].check(name, value)
    elif origin in (Union, types.UnionType):
        _check_union(inner, name, value)
    elif origin is Literal:
        check_choice(name, value, inner)
    elif origin is os.PathLike:
        _check_path(name, value)
    elif isinstance(origin, type):
        _check_container(origin, inner, name, value)
    elif hint in _SCALARS:
        _SCALARS[hint].check(name, value)
    elif isinstance(hint, type) and hint is not Any:
        _check_class(hint, name, value)


def _check_union(inner: tuple[Any, ...], name: str, value: Any) -> None:
    """Where all refuse, a number is told its bounds, anything else what it may be instead."""
    if isinstance(value, str) and not value.strip() and any(get_origin(one) is os.PathLike for one in inner):
        raise _wrong(name, value, "a path")
    refusals = []
    for one in inner:
        try:
            check(one, name, value)
        except CriticalityError as error:
            refusals.append((get_origin(one) is Annotated or one in (int, float), error))
        else:
            return
    said = [str(error).partition(" must be ")[2] for numeric, error in refusals if numeric or not is_real(value)]
    raise _wrong(name, value, " or ".join(dict.fromkeys(said)))


def _check_container(origin: type, inner: tuple[Any, ...], name: str, value: Any) -> None:
    if origin is collections.abc.Callable or origin is type:
        if not callable(value):
            raise _wrong(name, value, "a function")
        return
    if not isinstance(value, origin) or isinstance(value, (str, bytes)):
        raise _wrong(name, value, f"a {_CONTAINERS.get(origin, origin.__name__)}")
    if isinstance(value, Mapping) and len(inner) == 2:
        for key, entry in value.items():
            check(inner[0], f"a key of {name}", key)
            try:
                check(inner[1], name, entry)
            except CriticalityError:
                check(
                    inner[1], f"{name}[{shown(key)}]", entry
                )  # words for a key take long: that of a tensor has its numbers
    elif isinstance(value, Sequence) and inner:
        fixed = origin is tuple and inner[-1] is not Ellipsis
        if fixed and len(inner) != len(value):
            raise _wrong(name, value, f"a tuple of {len(inner)} values")
        for index, entry in enumerate(value):
            check(inner[index if fixed else 0], f"{name}[{index}]", entry)


def _check_path(name: str, value: Any) -> None:
    if not isinstance(value, os.PathLike) or isinstance(os.fspath(value), bytes):
        raise _wrong(name, value, "a path")


def _check_class(hint: type, name: str, value: Any) -> None:
    if getattr(hint, "_is_protocol", False):
        methods = [key for key in vars(hint) if not key.startswith("_")]
        fits = not isinstance(value, type) and all(hasattr(value, method) for method in methods)
    else:
        fits = isinstance(value, hint)
    if not fits:
        raise _wrong(name, value, f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}")


def _check_array(name: str, value: Any) -> None:
    try:
        numbers = np.asarray(value).dtype.kind in "iuf"
    except (TypeError, ValueError, RuntimeError):
        numbers = False
    if not numbers:
        raise _wrong(name, value, "an array of numbers")


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class _Text:
    """What can be a name or a path."""

    longest = 1000

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong(name, value, "text")
        if len(value) > self.longest or "\0" in value:
            raise _wrong(name, value, f"text of {self.longest} characters at most, without zero bytes")


class _Instance:
    """One of a few classes, without bounds."""

    def __init__(self, kinds: tuple[type, ...], what: str):
        self.kinds, self.what = kinds, what

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, self.kinds):
            raise _wrong(name, value, self.what)


_SCALARS: dict[Any, Any] = {
    float: Number(low=-math.inf, high=math.inf),
    int: Whole(low=-(2**53)),
    bool: _Instance((bool, np.bool_), "True or False"),
    str: _Text(),
    type(None): _Instance((type(None),), "None"),
}
_CONTAINERS: dict[Any, str] = {
    collections.abc.Sequence: "list",
    collections.abc.Mapping: "mapping",
    dict: "mapping",
}


def _is_array(hint: Any) -> bool:
    return hint is np.ndarray or hint is ArrayLike or "jaxtyping" in type(hint).__module__


def is_real(value: Any) -> bool:
    """Whether it is one number: of Python, of numpy, or an array or tensor without axes; ``True`` is none."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, Real) or (getattr(value, "ndim", None) == 0 and hasattr(value, "__float__"))


def _wrong(name: str, value: Any, what: str) -> CriticalityError:
    return CriticalityError(f"{name}={shown(value)} must be {what}")
