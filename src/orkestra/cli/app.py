"""The table of commands, and the one place that turns their exceptions into exit codes.

A command is imported when it is used: `--help` of everything needs none of their imports. An
exception becomes one line on standard error, with its traceback above only for `--debug`.
"""

import importlib
import importlib.metadata
import logging
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Final

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


_DEV_PACKAGES: Final = ("starlette", "uvicorn", "watchfiles")
_DEV_COMMANDS: Final = frozenset({"demo", "dev"})
"""Commands that need the packages of the extra `dev`."""

_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "init": ("orkestra.dev.init:init", "Write a small example application."),
    "demo": ("orkestra.dev.demo:demo", "Run a demonstration with three tenants."),
    "dev": ("orkestra.dev.session:dev", "Run an application and reload it on changes."),
    "server": ("orkestra.cli.server_command:server", "Run a Temporal development server."),
    "worker": (
        "orkestra.cli.worker_command:worker",
        "Run workflows and activities of modules.",
    ),
    "start": ("orkestra.cli.workflows:start", "Start a workflow for a tenant."),
    "list": ("orkestra.cli.workflows:list_workflows", "List the workflows of a tenant."),
    "show": ("orkestra.cli.workflows:show", "Show the state or the result of a workflow."),
    "signal": ("orkestra.cli.workflows:signal", "Send a signal to a workflow."),
    "query": ("orkestra.cli.workflows:query", "Query a workflow."),
    "update": ("orkestra.cli.workflows:update", "Send an update to a workflow."),
    "cancel": ("orkestra.cli.workflows:cancel", "Request the cancellation of a workflow."),
    "terminate": ("orkestra.cli.workflows:terminate", "Terminate a workflow at once."),
    "tenants": ("orkestra.cli.tenants:app", "List tenants; pause or unpause their schedules."),
    "trace": ("orkestra.cli.trace:app", "Show or backfill the trace of a workflow."),
    "health": ("orkestra.cli.health_command:health", "Check that Temporal is reachable and ready."),
    "doctor": ("orkestra.cli.health_command:doctor", "Diagnose configuration and connectivity."),
    "search-attributes": (
        "orkestra.cli.tenants:search_attributes_app",
        "Register the tenant search attribute.",
    ),
}
"""Definition of each command, and its line in the help of `orkestra`."""


class _Commands(TyperGroup):
    """Group that imports each command when it is used, which Typer cannot do."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See base class."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See base class."""
        if cmd_name not in _COMMANDS:
            msg = f"unknown command {cmd_name!r}: use one of {', '.join(_COMMANDS)}"
            raise typer.TyperException(msg)
        # Before the import, whose own error would not name the command to install the extra.
        if cmd_name in _DEV_COMMANDS and not all(map(find_spec, _DEV_PACKAGES)):
            raise MissingExtraError(f"`orkestra {cmd_name}`", "dev")
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), name)
        # A group such as `tenants` is a Typer already; a single command has to be put into one.
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = plain_app()
        single.command(cmd_name, help=help_of(found))(found)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See base class."""
        with formatter.section("Commands"):
            # From the table: asking each command for its help would import all of them.
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - a callback of Typer
    if wanted:
        own, sdk = map(importlib.metadata.version, ("orkestra-core", "temporalio"))
        write_line(f"orkestra {own} (temporalio {sdk}, Python {platform.python_version()})")
        raise typer.Exit


def orkestra(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
) -> None:
    """Multi-tenant Temporal for Python.

    To see it work:
      orkestra demo

    To run your own workflows:
      orkestra server
      orkestra worker my_app.workflows --task-queue my-queue
      orkestra health --task-queue my-queue

    Set TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE to choose the Temporal service, as for the temporal
    command. Exit codes: 0 done or healthy, 1 failed or unhealthy, 2 bad input, 130 Ctrl-C.
    """
    # Options before the command's name: `load_config()` reads them from the root context.
    context.obj = config


def run(arguments: Sequence[str]) -> int:
    """Run the command of the arguments after `orkestra`, and return its exit code.

    `--debug` is accepted anywhere among the arguments.
    """
    debug = "--debug" in arguments
    wanted = [argument for argument in arguments if argument != "--debug"]
    # A command reports its outcome in one line; `orkestra worker` turns its log on by itself.
    log_to_stderr(logging.WARNING if debug else _SILENT)
    try:
        app = plain_app(cls=_Commands, add_completion=True)
        app.callback(help=help_of(orkestra))(orkestra)
        command = typer.main.get_command(app)
        # Not standalone: Typer would print errors its own way and exit by itself.
        code = command.main(wanted or ["--help"], prog_name="orkestra", standalone_mode=False)
        # A reader that is gone shows at the flush, which must be inside the try.
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every failure becomes an exit code
        return report(error, debug=debug)
    return code or 0


FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130

# Reasons that a retry cannot help: a script should stop at 2 and may try again at 1.
_WRONG_SETTING: Final = frozenset(
    {
        ConnectionFailureReason.BAD_ADDRESS,
        ConnectionFailureReason.BAD_CERTIFICATE,
        ConnectionFailureReason.NAMESPACE_NOT_FOUND,
    }
)


def is_bad_input(error: OrkestraError) -> bool:
    """Return whether the user of the command has to change something, as for exit code 2."""
    if isinstance(error, ConnectionFailedError):
        return error.reason in _WRONG_SETTING
    return isinstance(error, (ConfigurationError, SearchAttributeError, TenantError))


def report(error: BaseException, *, debug: bool) -> int:
    """Write an exception as one line, after its traceback if `debug`; return its exit code."""
    # Before `debug`: a closed pipe, as with `| head`, is no error to show.
    if isinstance(error, BrokenPipeError):
        # The reader of the output is gone. The interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if debug:
        traceback.print_exception(error)
    match error:
        case KeyboardInterrupt() | typer.Abort():
            code, line = INTERRUPTED, "interrupted"
        case typer.TyperException():
            code, line = BAD_INPUT, _usage(error)
        case OrkestraError():
            code, line = BAD_INPUT if is_bad_input(error) else FAILED, str(error)
        case OSError() if str(error):  # TimeoutError is one
            code, line = FAILED, str(error)
        case _:
            code = FAILED
            line = f"{type(error).__name__}: {error} (--debug shows the traceback)"
    write_error(line)
    return code


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.rstrip('.')} (see `{context.command_path} --help`)"
