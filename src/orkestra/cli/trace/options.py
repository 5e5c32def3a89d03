"""Options that both commands have, and the client that they act with."""

import importlib
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client
from temporalio.converter import DataConverter

from orkestra.cli.connecting import log_core_to_python
from orkestra.cli.workflows.acting import Actor
from orkestra.errors import ConfigurationError
from orkestra.temporal.manager import TemporalConnectionManager

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


@asynccontextmanager
async def client_of(actor: Actor, converter: DataConverter) -> AsyncGenerator[Client]:
    """A client of whoever acts that reads values by the converter, while its connection is open.

    Yields:
        The client; it traces as the actor's configuration says.

    Raises:
        ConnectionFailedError: The service could not be reached.
        TenantError: The tenant is malformed or unknown.
    """
    log_core_to_python()
    async with TemporalConnectionManager(actor.config, data_converter=converter) as manager:
        yield await manager.get_client(namespace=actor.namespace, tenant=actor.tenant)
