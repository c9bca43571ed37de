"""``criticality VERB ...``"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from criticality.arguments import meant, shown
from criticality.cli.output import prints_aside, say
from criticality.errors import CriticalityError, out_of_memory, raised, whole_words
from criticality.initialized import heard

T = TypeVar("T")

VERBS = (
    "check",
    "classify",
    "compare",
    "convert",
    "measure",
    "moments",
    "phases",
    "predict",
    "prescribe",
    "stream",
    "sweep",
    "train",
    "zoo",
)

FIRST_STEPS = """\
Do the gradients of a transformer explode with depth, before it is trained?  Five things to do:

  criticality predict resnet --norm dyt --alpha 0.5 --depth 256      theory of a residual network, in a second
  criticality predict timm:vit_base_patch16_224 --norm derf          theory of a real model, no weight allocated
  criticality check hf:llama --depth 32 --width 1024                 its phase, what to expect, and what to do
  criticality compare timm:vit_tiny_patch16_224 --norm ln,dyt        theory over measurement, as a report
  criticality prescribe timm:vit_tiny_patch16_224 --norm dyt         the alphas that make it critical

criticality --help lists all verbs, criticality VERB --help what one takes."""

MOVED = {"claims": "a command of the article's folder in the repository: python examples/paper/claims.py"}
"""Verbs of earlier versions, and what they are now."""


class Refusal(click.ClickException):
    """One sentence on stderr, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"criticality: {self.format_message()}", err=True)


class Verbs(click.Group):
    """Turns what the library refuses into one sentence and exit code 2, an interrupt into exit code 130.

    A verb's module is imported when the verb is called: theory alone does not wait for torch.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in MOVED:
            raise Refusal(f"criticality {name} is now {MOVED[name]}")
        if name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"criticality.cli.{name}"), name)
        return command

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        return _refusing(lambda: super(Verbs, self).make_context(*arguments, **settings))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings(), heard(), prints_aside():
                if not sys.warnoptions:  # what libraries say of one another is nothing that a user of a verb can mend
                    warnings.filterwarnings("ignore", module=r"(torch|timm|transformers|lightning)\b")
                return _refusing(lambda: super(Verbs, self).invoke(ctx))
        except KeyboardInterrupt:
            click.echo("criticality: interrupted", err=True)
            ctx.exit(130)


def _refusing(call: Callable[[], T]) -> T:
    try:
        return call()
    except click.UsageError as error:
        raise Refusal(_usage(error)) from error
    except CriticalityError as error:
        raise Refusal(sentence(str(error))) from error
    except (SystemExit, GeneratorExit) as error:  # the verbs themselves do not end so
        raise Refusal(f"the verb must be let to end, but code that it runs raised {raised(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise Refusal("sizes must fit into memory, and these do not") from error
    except ImportError as error:
        raise Refusal(f"package {error.name!r} must be installed for this: {sentence(str(error))}") from error
    except OSError as error:
        name = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
        raise Refusal(f"file {os.fspath(name)!r} must be readable or writable: {error.strerror or error}") from error


def sentence(text: str, longest: int = 500) -> str:
    """On one line, and not longer than that."""
    return whole_words(" ".join(text.split()), longest)


def _usage(error: click.UsageError) -> str:
    """What click says of an option or argument, as the library would."""
    if isinstance(error, click.NoSuchOption):
        known = [] if error.ctx is None else [name for param in error.ctx.command.params for name in param.opts]
        verb = "" if error.ctx is None else f" of {error.ctx.info_name}"
        return f"option {error.option_name!r}{verb} is unknown{meant(error.option_name, known)}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_called(error.param)} must be given; see criticality {_verb(error)}--help"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name} must have a value" if "requires" in error.message else sentence(error.message)
    if error.message.startswith("No such command"):
        group = error.ctx.command if error.ctx is not None else None
        known = group.list_commands(error.ctx) if isinstance(group, click.Group) and error.ctx is not None else []
        name = error.message.partition("'")[2].partition("'")[0]
        return f"verb {shown(name)} is unknown{meant(name, known)}; allowed are {', '.join(known)}"
    if error.message.startswith("Got unexpected extra argument"):
        extra = error.message.partition("(")[2].rpartition(")")[0]
        return f"argument {shown(extra)} must be left out: {_verb(error)}takes no more"
    return sentence(error.format_message())


def _verb(error: click.UsageError) -> str:
    return "" if error.ctx is None or error.ctx.parent is None else f"{error.ctx.info_name} "


def _called(param: click.Parameter) -> str:
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from criticality.version import __version__

        click.echo(f"criticality, version {__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Predict, measure and compare how gradients grow with depth at initialization."""
    if ctx.invoked_subcommand is None:
        say(FIRST_STEPS)


if __name__ == "__main__":
    main()
