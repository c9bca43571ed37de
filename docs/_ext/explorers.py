"""``{explorer} NAME``: an interactive figure over a table of ``examples/paper/make_explorers.py``, or a picture."""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PLOTS = {
    "residual": ("log J against layers for LayerNorm, DyT and Derf", "correlation of two inputs against layers"),
    "window": ("density of u over the squared slope", "mean squared slope against the deviation of u"),
    "block": ("log J against blocks for LayerNorm, DyT and Derf", "correlation of tokens against blocks"),
    "mlp": ("phase diagram", "correlation of two inputs against layers", "log J against layers"),
}


class Explorer(SphinxDirective):
    """Argument: the table. Options: ``still``, a picture; ``alt``, what it shows."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "still": directives.unchanged_required,
        "alt": directives.unchanged_required,
    }
    has_content = False

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in PLOTS:
            raise self.error(f"explorer {name!r} must be one of {', '.join(PLOTS)}")
        image = nodes.image(uri=self.options["still"], alt=self.options["alt"], classes=["explorer-still"])
        plots = "".join(
            f'<div class="explorer-plot" role="img" data-what="{escape(what)}" aria-label="{escape(what)}"></div>'
            for what in PLOTS[name]
        )
        start = f'<div class="explorer" data-explorer="{name}">'
        panel = (
            '<div class="explorer-panel"><div class="explorer-controls"></div>'
            f'<div class="explorer-plots">{plots}</div><div class="explorer-readout" aria-live="polite"></div>'
            '<p class="explorer-note">Every value is an entry of a table that the library computed, rounded to five digits;'
            " the sliders step from entry to entry.</p></div></div>"
        )
        return [nodes.raw("", start, format="html"), image, nodes.raw("", panel, format="html")]


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Plotly and the tables, only where a page has an interactive figure."""
    if doctree is None:
        return
    used = [node.astext() for node in doctree.findall(nodes.raw) if "data-explorer=" in node.astext()]
    if used:
        app.add_js_file("plotly.min.js", loading_method="defer")
        for name in PLOTS:
            if any(f'data-explorer="{name}"' in text for text in used):
                app.add_js_file(f"explorer/{name}.js", loading_method="defer")
        app.add_js_file("explorer/explorer.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("explorer", Explorer)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True}
