"""What the theme's pages lack for keyboards and screen readers: heading levels, and focus for what scrolls."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

NAVIGATION = (('role="heading"', 'role="heading" aria-level="2"'),)
BODY = (
    ("<pre>", '<pre tabindex="0">'),
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
)


def replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for before, after in pairs:
        text = text.replace(before, after)
    return text


def improve(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """After the theme has made its navigation."""
    if "furo_navigation_tree" in context:
        context["furo_navigation_tree"] = replaced(context["furo_navigation_tree"], NAVIGATION)
    if "body" in context:
        context["body"] = replaced(context["body"], BODY)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", improve, priority=900)
    return {"version": "1", "parallel_read_safe": True}
