"""``criticality stream``: the residual streams of a model, as found in its data flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.cli.options import common, model_changes, model_norm
from criticality.cli.output import emit, save_json
from criticality.randomness import seed_everything


@click.command()
@click.argument("model")
@model_norm
@model_changes
@common
def stream(model: str, as_json: bool, seed: int, out: Path | None, **options: Any) -> None:
    """Points, norms and branches of the residual streams of MODEL, found in the data flow of one forward pass.

    MODEL is "timm:NAME", "hf:PATH/config.json", "hf:MODEL_TYPE" or "module:PATH.py:FACTORY". It is built with its weights.
    """

    from criticality.models import model_spec
    from criticality.stream import stream as find_streams

    description = model_spec(model, **options)
    seed_everything(seed)
    found = find_streams(description.build(), description.inputs(seed))
    save_json(found.record(), out)
    emit(found.record(), as_json, str(found))
