"""The group of commands."""

from typing import Final

from orkestra.cli.options import help_of, plain_app
from orkestra.cli.trace.backfill import backfill
from orkestra.cli.trace.show import show


def trace() -> None:
    """Draw a workflow's trace from its history, or send to Langfuse what it lacks of it.

    Examples:
      orkestra trace show order-42 --tenant acme
      orkestra trace backfill order-42 --tenant acme --dry-run
    """


app: Final = plain_app()
app.callback(help=help_of(trace))(trace)
app.command(help=help_of(show))(show)
app.command(help=help_of(backfill))(backfill)
