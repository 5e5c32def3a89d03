"""What several commands share: options, and how help looks.

What the command line prints: plain text where nobody watches, and never a control character.

IDs come from outside, and the server takes newlines and terminal escapes in them.

How commands connect.
"""

import inspect
import json
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)
from typer.core import TyperGroup

from orkestra.config import LangfuseSettings, OrkestraConfig, TemporalSettings
from orkestra.config.model import Duration
from orkestra.temporal.connection import open_connection
from orkestra.temporal.manager import TemporalConnectionManager


def parse_duration(value: str | timedelta) -> timedelta:
    """Read a positive duration such as `5`, `5s`, `500ms` or `1m`."""
    try:
        duration = TypeAdapter[timedelta](Duration).validate_python(_number_or_text(value))
    except ValidationError:
        duration = timedelta()
    if duration <= timedelta():
        msg = f"{value!r} is no positive duration: write 5s, 500ms or 1m"
        raise typer.BadParameter(msg)
    return duration


def _number_or_text(value: str | timedelta) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def parse_name(value: str) -> str:
    """Refuse a name that is empty, as an unset variable of the shell makes it."""
    if not value.strip():
        msg = f"{value!r} is empty"
        raise typer.BadParameter(msg)
    return value


def duration_option(default: str, *, help: str) -> Any:
    """An option that takes a duration.

    Args:
        default: The default as help shows it.
        help: What the duration is for.
    """
    return typer.Option(parser=parse_duration, metavar="DURATION", show_default=default, help=help)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Configuration file.  [default: orkestra.toml, if any]"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        parser=parse_name,
        metavar="NAME",
        help="Namespace.  [default: TEMPORAL_NAMESPACE, or default]",
    ),
]


def load_config(context: typer.Context, file: Path | None) -> OrkestraConfig:
    """Load the configuration that the command is to use.

    Args:
        context: The command's context; `orkestra --config FILE COMMAND` has left its file there.
        file: The command's own `--config`, which wins.

    Raises:
        ConfigurationError: A file is missing or malformed, or a setting is wrong.
    """
    return OrkestraConfig.load(file or context.find_root().obj)


def plain_app(*, cls: type[TyperGroup] | None = None, add_completion: bool = False) -> typer.Typer:
    """An application or group of commands whose help is plain text."""
    return typer.Typer(
        cls=cls,
        add_completion=add_completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def help_of(function: Callable[..., object]) -> str:
    """The docstring of a command as its help; paragraphs with indented lines keep their lines."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(f"\b\n{text}" if "\n  " in text else text for text in paragraphs)


MARKS: Final = {True: ("ok", "green"), False: ("fail", "bold red"), None: ("open", "yellow")}
"""How a check is shown that is well, is not, or is open, and in which style."""

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def plain(text: str) -> str:
    r"""The text on one line, with characters that a terminal would obey written as `\x1b`."""
    joined = " ".join(text.split("\n"))
    if joined.isprintable():
        return joined
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined
    )


def write_line(text: str) -> None:
    """Write one line to standard output, at once."""
    typer.echo(plain(text))
    sys.stdout.flush()


def write_json(value: Mapping[str, Any]) -> None:
    """Write one line of JSON to standard output, at once."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def tell(as_json: bool, told: Mapping[str, Any], line: str) -> None:  # noqa: FBT001 - a printer
    """Write what was done, as JSON or in a line."""
    if as_json:
        write_json(told)
    else:
        write_line(line)


def write_error(text: str) -> None:
    """Write one line to standard error."""
    typer.echo(f"orkestra: {plain(text)}", err=True)


def log_to_stderr(level: int) -> None:
    """Send log records of the level and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter(_LOG_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _PlainFormatter(logging.Formatter):
    """Keeps a record's message on one line; a traceback below it stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """See base class."""
        return plain(super().formatMessage(record))


def log_core_to_python() -> None:
    """Send what the SDK's core logs the way of all records; by itself it writes to stdout."""
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    filters = TelemetryFilter(core_level="WARN", other_level="ERROR")
    telemetry = TelemetryConfig(logging=LoggingConfig(filter=filters, forwarding=forwarding))
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)


@asynccontextmanager
async def connection_manager(
    config: OrkestraConfig,
    *,
    is_traced: bool = False,
    data_converter: DataConverter = DataConverter.default,
) -> AsyncGenerator[TemporalConnectionManager]:
    """Clients of tenants and operators, while the connections are open.

    Args:
        config: Where the service is, and who is served.
        is_traced: Whether they trace. By default they start no trace: the workflows' own traces are
            their workers' to send.
        data_converter: Reads the values.

    Yields:
        Who makes the clients.
    """
    log_core_to_python()
    if not is_traced:
        config = config.model_copy(update={"langfuse": LangfuseSettings()})
    async with TemporalConnectionManager(config, data_converter=data_converter) as manager:
        yield manager


@asynccontextmanager
async def operator_client(
    settings: TemporalSettings, *, namespace: str, deadline: timedelta, verify_namespace: bool
) -> AsyncGenerator[Client]:
    """Connect without tenancy and tracing, as the settings say, and close at the end.

    Args:
        settings: Where the service is.
        namespace: Namespace of the client.
        deadline: How long connecting is tried, where the settings allow as much.
        verify_namespace: Whether a namespace that does not exist is an error already here.

    Yields:
        A client that sees all tenants.

    Raises:
        ConnectionFailedError: There is no connection to be had.
    """
    patience = min(deadline, settings.connect_deadline)
    limited = settings.model_copy(
        update={"connect_deadline": patience, "verify_namespace": verify_namespace}
    )
    log_core_to_python()
    connection = await open_connection(limited, namespace=namespace)
    try:
        yield Client(connection.service_client, namespace=namespace)
    finally:
        await connection.close()
