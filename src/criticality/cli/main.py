"""``criticality VERB ...``"""

from __future__ import annotations

from typing import Any

import click

from criticality import __version__
from criticality.cli.compare import compare
from criticality.cli.measure import measure
from criticality.cli.moments import moments
from criticality.cli.predict import predict


class _Refusal(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"criticality: {self.format_message()}", err=True)


class Verbs(click.Group):
    """Turns what the library refuses into one sentence and exit code 2, an interrupt into exit code 130."""

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


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="criticality")
def main() -> None:
    """Predict, measure and compare how gradients grow with depth at initialization."""


for verb in (moments, predict, measure, compare):
    main.add_command(verb)

if __name__ == "__main__":
    main()
