"""``{verdict} KEY``: a claim of the article's plan with what its computation in ``examples/paper`` decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CLAIMS = Path(__file__).parents[1] / "claims" / "claims.json"
KINDS = {
    "holds": "tip",
    "holds with limits": "note",
    "fails": "warning",
    "not decided yet": "important",
}


class Verdict(SphinxDirective):
    """An admonition: the claim, its verdict, what was computed and what came out."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        records = {record["key"]: record for record in json.loads(CLAIMS.read_text())}
        key = self.arguments[0]
        if key not in records:
            raise self.error(f"verdict {key!r} must be one of {', '.join(records)}")
        self.env.note_dependency(str(CLAIMS))
        record = records[key]
        box = nodes.admonition(classes=[KINDS[record["verdict"]], "verdict"])
        box += nodes.title("", f"Tested: {record['verdict']}")
        claim = nodes.paragraph()
        claim += nodes.emphasis("", record["statement"])
        box += claim
        for label, text in (("Computed", record["computed"]), ("Found", record["found"])):
            paragraph = nodes.paragraph()
            paragraph += nodes.strong("", f"{label}: ")
            paragraph += nodes.Text(text)
            box += paragraph
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("verdict", Verdict)
    return {"version": "1", "parallel_read_safe": True}
