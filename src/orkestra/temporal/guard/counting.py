"""Counts what the guard refuses, and what it lets through without a tenant."""

import logging
from collections.abc import Mapping
from typing import Final

from temporalio.common import MetricCounter
from temporalio.runtime import Runtime
from temporalio.service import ConnectConfig

from orkestra.errors import TenantError

_logger: Final = logging.getLogger("orkestra.temporal.guard")


def count_refused(
    config: ConnectConfig, call: str, error: TenantError, *, labels: Mapping[str, str]
) -> None:
    """Count a call that was refused.

    Args:
        config: Of the connection, whose runtime has the metrics.
        call: Its name, one of a bounded number.
        error: Why.
        labels: What it is counted under besides.
    """
    own = {"call": call, "kind": type(error).__name__}
    text = "Calls that clients were refused"
    _counter(config, "orkestra_refused_calls", text).add(1, {**own, **labels})


def count_untenanted(config: ConnectConfig, rpc: str) -> None:
    """Show those who move a running system over which calls have no tenant yet."""
    _logger.info("%s without a tenant", rpc)
    text = "Requests that mode optional let through without a tenant"
    _counter(config, "orkestra_untenanted_requests", text).add(1, {"rpc": rpc})


def _counter(config: ConnectConfig, name: str, text: str) -> MetricCounter:
    runtime = config.runtime or Runtime.default()
    return runtime.metric_meter.create_counter(name, text)
