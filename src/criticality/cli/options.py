"""Options and parameter types that verbs share, and which of them apply to what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import click
from click.core import ParameterSource

from criticality.arguments import (
    DEEPEST,
    Count,
    Depth,
    Finite,
    NotNegative,
    Positive,
    Samples,
    Seed,
    Size,
    Threads,
    Whole,
    check_choice,
    shown,
)
from criticality.errors import ArgumentError
from criticality.probes import PROBES

F = TypeVar("F", bound=Callable[..., Any])


def flag(param: click.Parameter | None) -> str:
    """What errors call a parameter: ``--depth``, or an argument's name."""
    if param is None:
        return "value"
    return param.opts[0] if isinstance(param, click.Option) else str(param.human_readable_name)


class NumberOf(click.ParamType):
    """A number of a kind of ``criticality.arguments``, such as ``Positive`` or ``Depth``."""

    def __init__(self, kind: Any):
        self.kind = get_args(kind)[1]
        self.parse: type = int if isinstance(self.kind, Whole) else float
        self.name = "whole number" if self.parse is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.number(flag(param), value)

    def number(self, name: str, value: Any) -> Any:
        """The value itself.

        Raises:
            CriticalityError: what is not such a number.
        """
        try:
            number = self.parse(value)
        except (ValueError, OverflowError):
            number = value
        self.kind.check(name, number)
        return number


class OneOf(click.Choice):
    """One of a few words; another is an error that suggests the nearest."""

    def __init__(self, choices: Sequence[str]):
        super().__init__(list(choices))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        check_choice(flag(param), value, list(self.choices))
        return value


class CommaSeparated(click.ParamType):
    """``1e-2,1,1e4``: one or more values, words or numbers of one kind."""

    def __init__(self, kind: Any = None):
        self.kind = None if kind is None else NumberOf(kind)
        self.name = "name,..." if kind is None else "number,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts):
            what = "names" if self.kind is None else "numbers"
            raise ArgumentError(f"{flag(param)}={shown(value)} must be {what} separated by commas")
        return tuple(parts) if self.kind is None else tuple(self.kind.number(flag(param), part) for part in parts)


class AlphaOf(NumberOf):
    """``0.5``, or ``attention=0.8,*=0.2``: a number for all norms, or for each kind of site or pattern of names."""

    def __init__(self) -> None:
        super().__init__(Positive)
        self.name = "number or name=number,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or "=" not in value:
            return super().convert(value, param, ctx)
        found: dict[str, float] = {}
        for part in value.split(","):
            pattern, _, number = (piece.strip() for piece in part.rpartition("="))
            if not pattern or pattern in found:
                raise ArgumentError(
                    f"{flag(param)}={shown(value)} must be a number, or pattern=number,... with each pattern once"
                )
            found[pattern] = self.number(f"{flag(param)} of {pattern!r}", number)
        return found


class Outside(click.Path):
    """A path; an empty one is refused, and one to be written where nothing can be made."""

    def __init__(self, written: bool = False) -> None:
        super().__init__(path_type=Path)
        self.written = written

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip() or "\0" in str(value):
            raise ArgumentError(f"{flag(param)}={shown(value)} must be a path")
        path: Any = super().convert(value, param, ctx)
        if self.written:
            from criticality.schema import check_can_be_made

            check_can_be_made(path)
        return path


DEPTH, SIZE, COUNT, SAMPLE_COUNT, SEED, THREADS = (
    NumberOf(kind) for kind in (Depth, Size, Count, Samples, Seed, Threads)
)
FINITE, POSITIVE, NOT_NEGATIVE = (NumberOf(kind) for kind in (Finite, Positive, NotNegative))
SEEDS, VERIFICATIONS, POINTS, WORKERS = (
    NumberOf(Annotated[int, Whole(low, high)]) for low, high in ((1, 100_000), (0, 100_000), (2, 2048), (0, 4096))
)
REPEATS = NumberOf(Annotated[int, Whole(24, DEEPEST)])
NAMES = CommaSeparated()
FILE, WRITTEN = Outside(), Outside(written=True)
WAY = OneOf(("auto", "exact", "sampled"))
Way = Literal["auto", "exact", "sampled"]
Mode = Literal["evaluation", "training"]


def common(function: F) -> F:
    """``--json``, ``--seed`` and ``--out``, which every verb takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else there."),
        click.option("--seed", type=SEED, default=0, show_default=True, help="Of all that is random."),
        click.option("--out", type=WRITTEN, help="Where to write the result."),
    ):
        function = option(function)
    return function


def model_changes(function: F) -> F:
    """``--depth``, ``--width``, ``--image-size``, ``--tokens``, ``--text``: changes to a model given by name."""
    for option in (
        click.option("--depth", type=DEPTH, help="Blocks [default: the model's own]."),
        click.option("--width", type=SIZE, help="Channels [default: the model's own]."),
        click.option("--image-size", type=SIZE, help="Pixels [default: the model's own]."),
        click.option("--tokens", type=SIZE, help="Length of text inputs [default: 64]."),
        click.option("--text", type=OneOf(["bytes", "random"]), help="Text inputs [default: bytes of source code]."),
    ):
        function = option(function)
    return function


def measurement(function: F) -> F:
    """``--probes``, ``--device``: how a model is measured."""
    for option in (
        click.option("--probes", type=SIZE, default=1, show_default=True, help="Backward passes for each weight seed."),
        click.option("--device", default="cpu", show_default=True, help="Of torch, such as cuda:0."),
    ):
        function = option(function)
    return function


def model_norm(function: F) -> F:
    """``--norm``, ``--alpha``, ``--init`` and ``--embedding-scale`` of one model."""
    for option in (
        click.option(
            "--embedding-scale",
            type=POSITIVE,
            help="hf: token embeddings are multiplied by it, weights that are written not [default: as the model has them].",
        ),
        INIT,
        ALPHA,
        click.option(
            "--norm", help="ln, rms, none, dyt, derf, any function of the zoo or PATH.py:NAME [default: its own]."
        ),
    ):
        function = option(function)
    return function


ALPHA = click.option(
    "--alpha",
    type=AlphaOf(),
    help="Of a pointwise norm [default: 1]; or by kind of site or name, such as attention=0.8,mlp=0.2,final=0.2 or"
    " attention=0.8,*=0.2.",
)

INIT = click.option("--init", help="own (the model's) or fan-in [default: own].", default=None, show_default=False)

FROM = click.option(
    "--from",
    "source",
    type=NumberOf(Annotated[int, Whole(low=0, high=DEEPEST)]),
    help="Source block: forward, J from it to every later block.",
)

PROBE = click.option(
    "--probe",
    type=OneOf(PROBES),
    default="normal",
    show_default=True,
    help="Gradient at the end of the stream: of each token its own, pooled (one for all), class (first token), or of a loss.",
)

MODE = click.option(
    "--mode",
    type=OneOf(("evaluation", "training")),
    default="evaluation",
    show_default=True,
    help="Of the model: training has dropout, and statistics of the batch in every batch norm.",
)

SAMPLES = click.option(
    "--samples",
    type=SAMPLE_COUNT,
    default=16,
    show_default=True,
    help="Score matrices per attention layer in the theory.",
)

_CHANGES = ("width", "image_size", "tokens", "text")

DOES_NOT_APPLY: dict[str, tuple[str, ...]] = {
    "predict resnet": ("init", "embedding_scale", "way", "seeds", "samples", *_CHANGES),
    "predict MODEL": ("sigma_w", "sigma_b", "q0", "rho0"),
    "classify --function": ("norm", "init", "way", "seeds", "to_depth", "depth", *_CHANGES),
    "classify MODEL": ("sigma_w", "sigma_b"),
    "measure --between": ("seeds", "probes", "source", "mode"),
    "measure --from": ("mode",),
    "phases block": ("depth",),
    "train without --prescription": ("target",),
    "train on a task with data of its own": ("data_root",),
    "--way exact": ("seeds", "to_depth"),
    "--way sampled": ("samples",),
    "compare of norms without alpha": ("alphas",),
}
"""Parameters that a verb has and a subject of it has no use for."""


def left_out(subject: str) -> None:
    """Refuse flags that were given and do not apply to the subject, one of ``DOES_NOT_APPLY``.

    Raises:
        CriticalityError: naming the flag, its value and the subject.
    """
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
        if given and param.name in DOES_NOT_APPLY[subject]:
            raise ArgumentError(
                f"{flag(param)}={_plain(context.params[str(param.name)])} must be left out of {subject}, to which it does not apply"
            )


def _plain(value: Any) -> str:
    return shown(str(value) if isinstance(value, Path) else value)
