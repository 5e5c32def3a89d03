"""The SDK's runtime with its metrics where Orkestra can read them."""

import http.client
import logging
import os
import socket
from functools import cache
from typing import Final

from temporalio.client import Client
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from orkestra.temporal.service_clients import unconfined_service

_HOST: Final = "127.0.0.1"
_ATTEMPTS: Final = 10
_PATIENCE: Final = 3.0


class MeteredRuntime(Runtime):
    """A runtime whose metrics can be read as text, in the form of Prometheus.

    The core serves them on a free port of this machine's loopback. What it logs goes to the logger
    `temporalio.core` instead of standard output.
    """

    def __init__(self) -> None:
        """Start the core's threads and its server of metrics.

        Raises:
            OSError: No port was free.
        """
        forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
        filters = TelemetryFilter(core_level="WARN", other_level="ERROR")
        log = LoggingConfig(filter=filters, forwarding=forwarding)
        for _ in range(_ATTEMPTS):
            self._port = _free_port()
            metrics = PrometheusConfig(bind_address=f"{_HOST}:{self._port}")
            try:
                super().__init__(telemetry=TelemetryConfig(logging=log, metrics=metrics))
            except ValueError:  # somebody was faster
                continue
            return
        msg = f"no free port on {_HOST} for the metrics of Temporal's core"
        raise OSError(msg)

    def metrics_text(self) -> str:
        """The core's metrics, and those that were counted through its meter.

        It waits for a few milliseconds; call it in a thread.

        Raises:
            OSError: They cannot be read.
        """
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_PATIENCE)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except http.client.HTTPException as error:
            msg = f"the metrics of Temporal's core cannot be read: {error!r}"
            raise OSError(msg) from error
        finally:
            connection.close()


def metered_runtime() -> MeteredRuntime:
    """The process's metered runtime, made where there is none yet.

    Give it to a `TemporalConnectionManager` whose workers are to show the core's metrics at
    `/metrics`; `create_worker()` does so by itself where it opens the connection.

    Raises:
        OSError: No port was free.
    """
    return _runtime_of_process(os.getpid())


@cache
def _runtime_of_process(_pid: int) -> MeteredRuntime:
    """One for each process, because runtimes do not survive a fork."""
    return MeteredRuntime()


def runtime_of(client: Client) -> MeteredRuntime | None:
    """The metered runtime that the client is connected with, if it is one."""
    runtime = unconfined_service(client).config.runtime or Runtime.default()
    return runtime if isinstance(runtime, MeteredRuntime) else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
