"""The commands, and one place that turns whatever they raise into an exit code."""

import importlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from orkestra.cli.failures import report
from orkestra.cli.options import ConfigFile, help_of, plain_app
from orkestra.cli.output import log_to_stderr, write_line

_SILENT: Final = logging.CRITICAL + 1


class _Place(NamedTuple):
    """Where a command lives; it is imported when it is asked for, and not for `--help`."""

    module: str
    name: str
    help: str


_COMMANDS: Final[Mapping[str, _Place]] = {
    "init": _Place("orkestra.cli.init", "init", "Write a small application to begin with."),
    "demo": _Place("orkestra.cli.demo", "demo", "Watch three tenants' workflows run."),
    "dev": _Place("orkestra.cli.dev.command", "dev", "Run an application while you write it."),
    "server": _Place("orkestra.cli.server", "server", "Run a Temporal server for development."),
    "worker": _Place("orkestra.cli.worker", "worker", "Run the workflows of a module."),
    "start": _Place("orkestra.cli.workflows.starting", "start", "Start a workflow for a tenant."),
    "list": _Place(
        "orkestra.cli.workflows.looking", "list_workflows", "List workflows of a tenant."
    ),
    "show": _Place(
        "orkestra.cli.workflows.looking", "show", "Show what a workflow is doing, or how it ended."
    ),
    "signal": _Place("orkestra.cli.workflows.messages", "signal", "Send a signal to a workflow."),
    "query": _Place("orkestra.cli.workflows.messages", "query", "Ask a workflow something."),
    "update": _Place("orkestra.cli.workflows.messages", "update", "Make an update of a workflow."),
    "cancel": _Place("orkestra.cli.workflows.ending", "cancel", "Ask a workflow to end."),
    "terminate": _Place("orkestra.cli.workflows.ending", "terminate", "End a workflow at once."),
    "tenants": _Place("orkestra.cli.tenants", "app", "See the tenants; stop or resume one."),
    "trace": _Place(
        "orkestra.cli.trace", "app", "Draw a workflow's trace, or send what Langfuse lacks."
    ),
    "health": _Place("orkestra.cli.health", "health", "Say whether Temporal can be worked with."),
    "doctor": _Place("orkestra.cli.doctor", "doctor", "Say what keeps work from flowing."),
    "search-attributes": _Place(
        "orkestra.cli.search_attributes", "search_attributes_app", "Prepare a namespace for tenants."
    ),
}


class _Commands(TyperGroup):
    """Finds commands in the table, for the lazy imports that typer does not have."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See base class."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See base class."""
        if cmd_name not in _COMMANDS:
            msg = f"no such command {cmd_name!r}: use one of {', '.join(_COMMANDS)}"
            raise typer.TyperException(msg)
        place = _COMMANDS[cmd_name]
        found = getattr(importlib.import_module(place.module), place.name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = plain_app()
        single.command(cmd_name, help=help_of(found))(found)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See base class."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in _COMMANDS.items()])


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - a callback of typer
    if wanted:
        ours, sdk = map(importlib.metadata.version, ("orkestra-core", "temporalio"))
        write_line(f"orkestra {ours} (temporalio {sdk}, Python {platform.python_version()})")
        raise typer.Exit


def orkestra(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
) -> None:
    """Multi-tenant Temporal for Python.

    Begin with:
      orkestra demo

    Or run your own workflows:
      orkestra server
      orkestra worker my_app.workflows --task-queue my-queue
      orkestra health --task-queue my-queue

    Where Temporal is comes from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, as for the temporal
    command. Exit codes: 0 done or healthy, 1 failed or unhealthy, 2 bad input, 130 Ctrl-C.
    """
    context.obj = config


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: What stands after `orkestra` on the command line. `--debug` may stand anywhere.

    Returns:
        The exit code.
    """
    debug = "--debug" in arguments
    wanted = [argument for argument in arguments if argument != "--debug"]
    # What becomes of a command is told in one line; a worker asks for its log by itself.
    log_to_stderr(logging.WARNING if debug else _SILENT)
    try:
        app = plain_app(cls=_Commands, add_completion=True)
        app.callback(help=help_of(orkestra))(orkestra)
        command = typer.main.get_command(app)
        code = command.main(wanted or ["--help"], prog_name="orkestra", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        return report(error, debug=debug)
    return code or 0
