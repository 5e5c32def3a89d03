"""A real Temporal server for development, tests and demos, embedded in the program that uses it."""

from orkestra.devserver.server import (
    BINARY_VARIABLE,
    DevServer,
    DynamicConfigValue,
    LogLevel,
    find_temporal_binary,
)

__all__ = ["BINARY_VARIABLE", "DevServer", "DynamicConfigValue", "LogLevel", "find_temporal_binary"]
