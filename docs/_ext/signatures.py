"""Types in signatures as a reader writes them: what a number may be is said by the text, and by the error."""

from __future__ import annotations

import re
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

_BOUNDED = re.compile(r"Annotated\[~?(\w+), ~?[\w.]*(?:Number|Whole)\([^()]*\)\]")
_ARRAY_LIKE = {stringify_annotation(ArrayLike, mode) for mode in ("smart", "fully-qualified-except-typing")}


def plain(text: str | None) -> str | None:
    """``int`` for a whole number with its bounds, ``ArrayLike`` for all that it stands for, ``...`` for what is made anew."""
    if text is None:
        return None
    for long in _ARRAY_LIKE:
        text = text.replace(long, "ArrayLike")
    return _BOUNDED.sub(r"\1", text).replace("<factory>", "...")


def _shortened(app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returned: str) -> Any:
    return plain(signature), plain(returned)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _shortened)
    return {"parallel_read_safe": True}
