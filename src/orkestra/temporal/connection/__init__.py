"""Connections to the Temporal service: opened with patience, shared by many, closed for good.

The SDK fails at once where the service is not there yet, and has no way to close a connection that
somebody still holds. Both are mended here.
"""

from orkestra.temporal.connection.connection import Connection, require_idle
from orkestra.temporal.connection.opening import open_connection, verify_namespace
from orkestra.temporal.connection.service_client import ManagedServiceClient
from orkestra.temporal.connection.single_flight import SingleFlight
from orkestra.temporal.connection.statistics import (
    ConnectionCounters,
    ConnectionState,
    ConnectionStatistics,
)

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
