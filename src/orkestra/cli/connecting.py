"""How commands connect."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.client import Client
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from orkestra.config import TemporalSettings
from orkestra.temporal.connection import open_connection


def log_core_to_python() -> None:
    """Send what the SDK's core logs the way of all records; by itself it writes to stdout."""
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    filters = TelemetryFilter(core_level="WARN", other_level="ERROR")
    telemetry = TelemetryConfig(logging=LoggingConfig(filter=filters, forwarding=forwarding))
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)


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
