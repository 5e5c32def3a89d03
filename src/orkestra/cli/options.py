"""Options, plain output and connections that several commands share.

Everything that is printed goes through `plain()`: IDs come from other people, and the server
accepts newlines and terminal escape sequences in them.
"""

import functools
import inspect
import json
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
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

_Code = TypeVar("_Code")


def parse_duration(value: str | timedelta) -> timedelta:
    """Read a positive duration such as `5`, `5s`, `500ms` or `1m`."""
    try:
        duration = TypeAdapter[timedelta](Duration).validate_python(_number_or_text(value))
    except ValidationError:
        duration = timedelta()
    # Zero is legal in the configuration ("never"), but not for a time limit of a command.
    if duration <= timedelta():
        msg = f"{value!r} is not a positive duration: write 5s, 500ms or 1m"
        raise typer.BadParameter(msg)
    return duration


def _number_or_text(value: str | timedelta) -> Any:
    try:
        # A bare number means seconds. Typer also passes an option's default through the parser.
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def parse_name(value: str) -> str:
    """Refuse an empty name, which is what an unset shell variable expands to."""
    if not value.strip():
        msg = f"{value!r} is empty: give a name"
        raise typer.BadParameter(msg)
    return value


def name_option(help: str) -> Any:
    """Declare an option that takes a name."""
    return typer.Option(parser=parse_name, metavar="NAME", help=help)


def duration_option(help: str, *flags: str) -> Any:
    """Declare an option that takes a duration; `help` names the default."""
    return typer.Option(
        *flags, parser=parse_duration, metavar="DURATION", show_default=False, help=help
    )


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file.  [default: orkestra.toml, if it exists]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Namespace = Annotated[
    str | None,
    name_option("Temporal namespace.  [default: TEMPORAL_NAMESPACE, or default]"),
]


def load_config(context: typer.Context, config: ConfigFile = None) -> OrkestraConfig:
    """Load the configuration of a command.

    The command's own `--config` wins over that of `orkestra --config FILE COMMAND`, which the root
    context keeps.
    """
    return OrkestraConfig.load(config or context.find_root().obj)


def takes(
    parameter: str, provider: Callable[..., Any]
) -> Callable[[Callable[..., _Code]], Callable[..., _Code]]:
    """Give a command the options of `provider` in place of one parameter.

    The command receives what the provider made of the options: `takes("settings", load_config)`
    adds `--config`, and the command reads `settings`.
    """

    def decorate(command: Callable[..., _Code]) -> Callable[..., _Code]:
        provided = inspect.signature(provider).parameters

        @functools.wraps(command)
        def provided_command(**given: Any) -> _Code:
            # The provider may raise, so it runs before the command has done anything.
            value = provider(**{name: given.pop(name) for name in provided})
            return command(**given, **{parameter: value})

        options = [
            # Keyword-only: an option with a default may then precede an argument without one.
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, own in inspect.signature(command).parameters.items()
            for option in (provided.values() if name == parameter else [own])
        ]
        # Typer reads the signature to find the options.
        provided_command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return provided_command

    return decorate


def plain_app(*, cls: type[TyperGroup] | None = None, add_completion: bool = False) -> typer.Typer:
    """Make an application or group of commands whose help is plain text."""
    return typer.Typer(
        cls=cls,
        add_completion=add_completion,
        # `orkestra.cli.app.report()` writes errors, and help has to stay plain in logs.
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def command_group(group: Callable[..., object], **commands: Callable[..., object]) -> typer.Typer:
    """Make a group of commands; `group` carries the help of all of them in its docstring."""
    app = plain_app()
    app.callback(help=help_of(group))(group)
    for name, command in commands.items():
        app.command(name, help=help_of(command))(command)
    return app


def help_of(function: Callable[..., object]) -> str:
    """Return a command's docstring as its help; paragraphs with indented lines keep their lines."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    # `\b` is Click's mark for a paragraph that must not be rewrapped.
    return "\n\n".join(f"\b\n{text}" if "\n  " in text else text for text in paragraphs)


MARKS: Final = {True: ("ok", "green"), False: ("fail", "bold red"), None: ("open", "yellow")}
"""Mark and style of a check that passed, failed, or could not be decided."""

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def plain(text: str) -> str:
    r"""Return the text on one line, with control characters escaped as in `\x1b`."""
    # B24: a newline in an ID would forge a line of output, an escape sequence the whole screen.
    joined = " ".join(text.split("\n"))
    if joined.isprintable():
        return joined
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined
    )


def write_line(text: str) -> None:
    """Write one line to standard output and flush it."""
    typer.echo(plain(text))
    sys.stdout.flush()


def write_json(value: Mapping[str, Any]) -> None:
    """Write one line of JSON to standard output and flush it."""
    # JSON in ASCII escapes newlines and terminal sequences by itself.
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def write_result(result: Mapping[str, Any], line: str, *, as_json: bool) -> None:
    """Write what a command did, as JSON or as one line."""
    if as_json:
        write_json(result)
    else:
        write_line(line)


def write_error(text: str) -> None:
    """Write one line to standard error."""
    typer.echo(f"orkestra: {plain(text)}", err=True)


def plain_table(*columns: str) -> Table:
    """Make a table without lines."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column)
    return table


@contextmanager
def progress_bar(
    console: Console, label: str, *, total: int, transient: bool = False
) -> Generator[Callable[[], None]]:
    """Show a progress bar; call the yielded function after each step."""
    # Most commands need neither the bar nor its slow import.
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=transient) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def format_duration(duration: timedelta) -> str:
    """Format a duration in the unit that suits it: `88 ms`, `3.26 s`, `2 m 05 s`, `1 h 03 m`."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} m {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} m"


class _Tree(Protocol):
    @property
    def children(self) -> "Sequence[Any]": ...


_TreeT = TypeVar("_TreeT", bound=_Tree)


def tree_rows(
    tree: _TreeT, before: str = "", indent: str = ""
) -> Iterator[tuple[_TreeT, str, str]]:
    """Yield each node of a tree with the prefix of its line and of a second line below it."""
    # The second line continues the branch to the children, not the one from the parent.
    yield tree, before, indent + ("│  " if tree.children else "   ")
    for child in tree.children:
        is_last = child is tree.children[-1]
        deeper = indent + ("   " if is_last else "│  ")
        yield from tree_rows(child, indent + ("└─ " if is_last else "├─ "), deeper)


def log_to_stderr(level: int) -> None:
    """Send log records of the level and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter(_LOG_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _PlainFormatter(logging.Formatter):
    """Formatter that keeps each message on one line; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """See base class."""
        return plain(super().formatMessage(record))


def log_core_to_python() -> None:
    """Send the log of the SDK's core through `logging`; by default it goes to standard output."""
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    filters = TelemetryFilter(core_level="WARN", other_level="ERROR")
    telemetry = TelemetryConfig(logging=LoggingConfig(filter=filters, forwarding=forwarding))
    # Two commands in one process, as in tests: the first runtime stays.
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)


@asynccontextmanager
async def connection_manager(
    config: OrkestraConfig,
    *,
    is_traced: bool = False,
    data_converter: DataConverter = DataConverter.default,
) -> AsyncGenerator[TemporalConnectionManager]:
    """Open a connection manager for the clients of tenants and operators.

    By default its clients do not trace: the workers send the traces of their workflows.
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
    """Connect a client that sees all tenants, without tenancy and tracing."""
    deadline = min(deadline, settings.connect_deadline)
    limited = settings.model_copy(
        update={"connect_deadline": deadline, "verify_namespace": verify_namespace}
    )
    log_core_to_python()
    connection = await open_connection(limited, namespace=namespace)
    try:
        yield Client(connection.service_client, namespace=namespace)
    finally:
        await connection.close()
