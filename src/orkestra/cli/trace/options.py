"""Options that both commands have."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.converter import DataConverter

from orkestra.errors import ConfigurationError

WholeChain = Annotated[
    bool,
    typer.Option(
        "--chain", help="Also the runs before and after, by continue-as-new, retry or cron."
    ),
]
Children = Annotated[
    bool, typer.Option("--children/--no-children", help="Also the workflows that it started.")
]
Converter = Annotated[
    str | None,
    typer.Option(
        "--data-converter",
        metavar="MODULE:NAME",
        help="Data converter that reads the values, for those that are encrypted.",
    ),
]


def load_object(place: str, option: str) -> Any:
    """Import what an option names, from installed modules or the working directory.

    Args:
        place: `module:name`.
        option: The option, for the error.

    Raises:
        ConfigurationError: It cannot be found.
    """
    module, _, name = place.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        msg = f"{option} {place!r} cannot be imported: {error}; write MODULE:NAME"
        raise ConfigurationError(msg) from error


def load_converter(place: str | None) -> DataConverter:
    """The data converter that an option names, or the default one.

    Raises:
        ConfigurationError: It cannot be found, or is something else.
    """
    if place is None:
        return DataConverter.default
    found = load_object(place, "--data-converter")
    if not isinstance(found, DataConverter):
        msg = f"--data-converter {place!r} is a {type(found).__name__}, and no DataConverter"
        raise ConfigurationError(msg)
    return found
