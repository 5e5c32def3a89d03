"""A real Temporal server for development, tests and demos, embedded in the program that uses it."""

from orkestra.devserver.binary import BINARY_VARIABLE, find_temporal_binary
from orkestra.devserver.command import DynamicConfigValue, LogLevel
from orkestra.devserver.server import DevServer

__all__ = ["BINARY_VARIABLE", "DevServer", "DynamicConfigValue", "LogLevel", "find_temporal_binary"]
