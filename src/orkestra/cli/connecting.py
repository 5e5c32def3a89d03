"""How commands connect."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from orkestra.config import LangfuseSettings, OrkestraConfig, TemporalSettings
from orkestra.temporal.connection import open_connection
from orkestra.temporal.manager import TemporalConnectionManager


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
