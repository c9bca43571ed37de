"""Names of modules by pattern."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

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
