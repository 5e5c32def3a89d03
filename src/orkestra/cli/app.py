"""The commands, and one place that turns whatever they raise into an exit code.

What an exception means to whoever typed the command: an exit code and one line.
"""

import importlib
import importlib.metadata
import logging
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from orkestra.cli.options import (
    ConfigFile,
    help_of,
    log_to_stderr,
    plain_app,
    write_error,
    write_line,
)
from orkestra.errors import (
    ConfigurationError,
    ConnectionFailedError,
    ConnectionFailureReason,
    MissingExtraError,
    OrkestraError,
    SearchAttributeError,
    TenantError,
)

_SILENT: Final = logging.CRITICAL + 1

_DEV: Final = ("starlette", "uvicorn", "watchfiles")
"""Packages of the extra `dev`."""


class _Place(NamedTuple):
    """Where a command lives; it is imported when it is asked for, and not for `--help`."""

    module: str
    name: str
    help: str
    needs: Sequence[str] = ()


_COMMANDS: Final[Mapping[str, _Place]] = {
    "init": _Place("orkestra.dev.init", "init", "Write a small application to begin with."),
    "demo": _Place("orkestra.dev.demo", "demo", "Watch three tenants' workflows run.", _DEV),
    "dev": _Place("orkestra.dev.session", "dev", "Run an application while you write it.", _DEV),
    "server": _Place(
        "orkestra.cli.server_command", "server", "Run a Temporal server for development."
    ),
    "worker": _Place("orkestra.cli.worker_command", "worker", "Run the workflows of a module."),
    "start": _Place("orkestra.cli.workflows", "start", "Start a workflow for a tenant."),
    "list": _Place("orkestra.cli.workflows", "list_workflows", "List workflows of a tenant."),
    "show": _Place(
        "orkestra.cli.workflows", "show", "Show what a workflow is doing, or how it ended."
    ),
    "signal": _Place("orkestra.cli.workflows", "signal", "Send a signal to a workflow."),
    "query": _Place("orkestra.cli.workflows", "query", "Ask a workflow something."),
    "update": _Place("orkestra.cli.workflows", "update", "Make an update of a workflow."),
    "cancel": _Place("orkestra.cli.workflows", "cancel", "Ask a workflow to end."),
    "terminate": _Place("orkestra.cli.workflows", "terminate", "End a workflow at once."),
    "tenants": _Place("orkestra.cli.tenants", "app", "See the tenants; stop or resume one."),
    "trace": _Place(
        "orkestra.cli.trace", "app", "Draw a workflow's trace, or send what Langfuse lacks."
    ),
    "health": _Place(
        "orkestra.cli.health_command", "health", "Say whether Temporal can be worked with."
    ),
    "doctor": _Place("orkestra.cli.health_command", "doctor", "Say what keeps work from flowing."),
    "search-attributes": _Place(
        "orkestra.cli.tenants", "search_attributes_app", "Prepare a namespace for tenants."
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
        if not all(map(find_spec, place.needs)):
            raise MissingExtraError(f"`orkestra {cmd_name}`", "dev")
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


FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130

_WRONG_SETTING: Final = frozenset(
    {
        ConnectionFailureReason.BAD_ADDRESS,
        ConnectionFailureReason.BAD_CERTIFICATE,
        ConnectionFailureReason.NAMESPACE_NOT_FOUND,
    }
)


@dataclass(frozen=True)
class Failure:
    """How a command ended that did not do what it was asked for."""

    code: int
    line: str


def is_bad_input(error: OrkestraError) -> bool:
    """Whether it is for whoever typed the command to change something."""
    if isinstance(error, ConnectionFailedError):
        return error.reason in _WRONG_SETTING
    return isinstance(error, (ConfigurationError, SearchAttributeError, TenantError))


def report(error: BaseException, *, debug: bool) -> int:
    """Write one line about an exception, after its traceback where that is asked for.

    Args:
        error: What the command raised.
        debug: Whether to write the traceback, too.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone; the interpreter must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if debug:
        traceback.print_exception(error)
    failure = _failure(error)
    write_error(failure.line)
    return failure.code


def _failure(error: BaseException) -> Failure:
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return Failure(INTERRUPTED, "interrupted")
        case typer.TyperException():
            return Failure(BAD_INPUT, _usage(error))
        case OrkestraError():
            return Failure(BAD_INPUT if is_bad_input(error) else FAILED, str(error))
        case OSError() if str(error):  # TimeoutError is one
            return Failure(FAILED, str(error))
        case _:
            line = f"{type(error).__name__}: {error} (--debug shows where it came from)"
            return Failure(FAILED, line)


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.rstrip('.')} (see `{context.command_path} --help`)"
