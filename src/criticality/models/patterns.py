"""Names of modules by pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from criticality.arguments import shown
from criticality.errors import ArgumentError


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern is the name itself, its last part or parts, a glob of it or of its last part (``*``, ``?``, ``[...]``),
    or, after ``re:``, a regular expression for the whole name.

    Raises:
        CriticalityError: what is after ``re:`` is no regular expression.

    >>> [matches(pattern, "blocks.0.norm1") for pattern in ("norm1", "blocks.0.*", "re:.*[12]", "norm")]
    [True, True, True, False]
    """
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise ArgumentError(f"pattern {pattern!r} must be a regular expression after 're:': {error}") from None
    last = "" if "." in pattern else name.rpartition(".")[2]
    return (
        pattern == name
        or name.endswith(f".{pattern}")
        or fnmatchcase(name, pattern)
        or bool(last and fnmatchcase(last, pattern))
    )


def check_patterns(
    argument: str,
    patterns: Iterable[str],
    names: Iterable[str],
    what: str,
    fits: Callable[[str, str], bool] = matches,
) -> None:
    """Refuse a pattern that no name fits.

    Args:
        argument: in which the patterns are.
        names: of what there is.
        what: it is, in words, with its article.

    Raises:
        CriticalityError: naming the pattern, and what there is; text in the place of a list of patterns.
    """
    if isinstance(patterns, str):
        raise ArgumentError(f"{argument}={patterns!r} must be a list of patterns")
    known = list(dict.fromkeys(names))
    for pattern in patterns:
        if not any(fits(pattern, name) for name in known):
            there = ", ".join(map(repr, known[:4])) + (", ..." if len(known) > 4 else "")
            raise ArgumentError(
                f"{argument}={shown(pattern)} must match {what}, and matches none{f' of {there}' if known else ''}"
            )


@dataclass(frozen=True)
class Patterns:
    """What an operation is for, by name: all that ``only`` matches and ``keep`` does not; ``fits(pattern, name)`` is a match."""

    keep: Sequence[str] = ()
    only: Sequence[str] = ("*",)
    fits: Callable[[str, str], bool] = matches

    def check(self, names: Iterable[str], what: str) -> None:
        """Refuse a pattern that no name fits, as ``check_patterns``."""
        for argument, patterns in (("keep", self.keep), ("only", self.only)):
            check_patterns(argument, [one for one in patterns if one != "*"], names, what, self.fits)

    def left_out(self, *names: str) -> str:
        """Why what has these names, any of which may be meant, is left out; empty where it is not.

        >>> Patterns(keep=["blocks.0.*"]).left_out("blocks.0.norm1")
        "as keep has 'blocks.0.*'"
        """
        for pattern in self.keep:
            if any(self.fits(pattern, name) for name in names):
                return f"as keep has {pattern!r}"
        found = any(self.fits(pattern, name) for pattern in self.only for name in names)
        return "" if found else "as only has no pattern for it"
