"""``criticality VERB ...``"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

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


MOVED = {"claims": "a command of the article's folder in the repository: python examples/paper/claims.py"}
"""Verbs of earlier versions, and what they are now."""


class _Refusal(click.ClickException):
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
            raise _Refusal(f"criticality {name} is now {MOVED[name]}")
        if name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"criticality.cli.{name}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise _Refusal(" ".join(str(error).split())) from error
        except OSError as error:
            raise _Refusal(
                f"file {error.filename!r} must be readable or writable: {error.strerror or error}"
            ) from error
        except KeyboardInterrupt:
            click.echo("criticality: interrupted", err=True)
            ctx.exit(130)


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from criticality.version import __version__

        click.echo(f"criticality, version {__version__}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def main() -> None:
    """Predict, measure and compare how gradients grow with depth at initialization."""


if __name__ == "__main__":
    main()
