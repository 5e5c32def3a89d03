"""Connections to the Temporal service: opened with retries, shared by many clients, and closed.

The SDK fails at once where the service is not up yet, and cannot close a connection that is still
referenced.
"""

from orkestra.temporal.connection.connect import open_connection, verify_namespace
from orkestra.temporal.connection.connection import (
    Connection,
    ConnectionCounters,
    ConnectionState,
    ConnectionStatistics,
    ManagedServiceClient,
    require_idle,
)

__all__ = [
    "Connection",
    "ConnectionCounters",
    "ConnectionState",
    "ConnectionStatistics",
    "ManagedServiceClient",
    "open_connection",
    "require_idle",
    "verify_namespace",
]
