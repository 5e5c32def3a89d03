"""Connections to the Temporal service: opened with patience, shared by many, closed for good.

The SDK fails at once where the service is not there yet, and has no way to close a connection that
somebody still holds. Both are mended here.
"""

from orkestra.temporal.connection.connect import open_connection, verify_namespace
from orkestra.temporal.connection.connection import Connection, ManagedServiceClient, require_idle
from orkestra.temporal.connection.load import (
    ConnectionCounters,
    ConnectionState,
    ConnectionStatistics,
)
from orkestra.temporal.connection.single_flight import SingleFlight

__all__ = [
    "Connection",
    "ConnectionCounters",
    "ConnectionState",
    "ConnectionStatistics",
    "ManagedServiceClient",
    "SingleFlight",
    "open_connection",
    "require_idle",
    "verify_namespace",
]
