"""Logs that say for whom: tenant, workflow, run, queue and attempt on every line."""

from orkestra.temporal.logs.configuring import LogStyle, configure_logging
from orkestra.temporal.logs.context import TaskContextFilter
from orkestra.temporal.logs.formatting import JsonFormatter, TextFormatter

__all__ = ["JsonFormatter", "LogStyle", "TaskContextFilter", "TextFormatter", "configure_logging"]
