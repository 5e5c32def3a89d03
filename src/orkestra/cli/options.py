"""What several commands share: options, and how help looks."""

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from typer.core import TyperGroup

from orkestra.config import OrkestraConfig
from orkestra.config.section import Duration


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
