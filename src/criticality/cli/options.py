"""Options and parameter types that verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from criticality.probes import PROBES

F = TypeVar("F", bound=Callable[..., Any])


class CommaSeparated(click.ParamType):
    """``1e-2,1,1e4``: one or more values of one type."""

    def __init__(self, kind: Callable[[str], Any], what: str):
        self.kind, self.name = kind, f"{what},..."
        self.what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} must be {self.what}s separated by commas, such as {self.example!r}", param, ctx)

    @property
    def example(self) -> str:
        return "0.5,1,2" if self.kind is float else "ln,dyt"


NUMBERS = CommaSeparated(float, "number")
NAMES = CommaSeparated(str, "name")


def common(function: F) -> F:
    """``--json``, ``--seed`` and ``--out``, which every verb takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else there."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random."),
        click.option("--out", type=click.Path(path_type=Path), help="Where to write the result."),
    ):
        function = option(function)
    return function


def model_changes(function: F) -> F:
    """``--depth``, ``--width``, ``--image-size``, ``--tokens``, ``--text``: changes to a model given by name."""
    for option in (
        click.option("--depth", type=int, help="Blocks [default: the model's own]."),
        click.option("--width", type=int, help="Channels [default: the model's own]."),
        click.option("--image-size", type=int, help="Pixels [default: the model's own]."),
        click.option("--tokens", type=int, help="Length of text inputs [default: 64]."),
        click.option(
            "--text", type=click.Choice(["bytes", "random"]), help="Text inputs [default: bytes of source code]."
        ),
    ):
        function = option(function)
    return function


def measurement(function: F) -> F:
    """``--probes``, ``--device``: how a model is measured."""
    for option in (
        click.option("--probes", type=int, default=1, show_default=True, help="Backward passes for each weight seed."),
        click.option("--device", default="cpu", show_default=True, help="Of torch, such as cuda:0."),
    ):
        function = option(function)
    return function


def model_norm(function: F) -> F:
    """``--norm``, ``--alpha`` and ``--init`` of one model."""
    for option in (
        INIT,
        click.option("--alpha", type=float, help="Of a pointwise norm [default: 1]."),
        click.option(
            "--norm", help="ln, rms, none, dyt, derf, any function of the zoo or PATH.py:NAME [default: its own]."
        ),
    ):
        function = option(function)
    return function


INIT = click.option("--init", help="own (the model's) or fan-in [default: own].", default=None, show_default=False)

FROM = click.option(
    "--from", "source", type=click.IntRange(min=0), help="Source block: forward, J from it to every later block."
)

PROBE = click.option(
    "--probe",
    type=click.Choice(PROBES),
    default="normal",
    show_default=True,
    help="Gradient at the end of the stream: of each token its own, pooled (one for all), class (first token), or of a loss.",
)

SAMPLES = click.option(
    "--samples", type=int, default=16, show_default=True, help="Score matrices per attention layer in the theory."
)
