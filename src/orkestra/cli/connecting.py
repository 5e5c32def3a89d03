"""The operator's client of the commands: no tenancy, no tracing, and closed at their end."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.client import Client

from orkestra.cli.output import log_core_to_python
from orkestra.config import TemporalSettings
from orkestra.temporal.connection import open_connection


@asynccontextmanager
async def operator_client(
    settings: TemporalSettings, *, namespace: str, deadline: timedelta, verify_namespace: bool
) -> AsyncGenerator[Client]:
    """Connect as the settings say, but not for longer than the deadline.

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
