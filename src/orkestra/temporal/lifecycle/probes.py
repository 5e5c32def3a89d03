"""`/livez`, `/readyz` and `/metrics`."""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from temporalio.worker import Worker

from orkestra.config import OrkestraConfig
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.lifecycle.http import Answer, ProbeServer
from orkestra.temporal.lifecycle.metrics import (
    metrics_of,
    metrics_of_connections,
    metrics_of_spans,
    text_of,
)
from orkestra.temporal.lifecycle.status import Status
from orkestra.temporal.plugin import OrkestraPlugin, span_counts
from orkestra.temporal.telemetry import runtime_of
from orkestra.temporal.unconfined import unconfined_service

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")


class Probes:
    """Answers from what is known of the workers.

    Attributes:
        workers: The workers, as soon as there are some.

    Args:
        status: The state of the process.
    """

    def __init__(self, status: Status) -> None:
        self.workers: Sequence[Worker] = ()
        self._status = status

    def alive(self) -> Answer:
        """Whether the event loop runs; what answers no should be killed."""
        return _verdict(self._status.liveness(), is_good=self._status.is_alive)

    def ready(self) -> Answer:
        """Whether every worker takes work."""
        return _verdict(self._status.readiness(), is_good=self._status.is_ready)

    def metrics(self) -> Answer:
        """The core's metrics, if it was told to keep them, and ours."""
        clients = [worker.client for worker in self.workers]
        runtimes = {id(found): found for client in clients if (found := runtime_of(client))}
        texts = [runtime.metrics_text() for runtime in runtimes.values()]
        plugins = {p for client in clients for p in client.config()["plugins"]}
        spans = span_counts([p for p in plugins if isinstance(p, OrkestraPlugin)])
        services = [unconfined_service(client) for client in clients]
        connections = {s.connection for s in services if isinstance(s, ManagedServiceClient)}
        ours = [
            *metrics_of(self._status),
            *metrics_of_connections(connections),
            *metrics_of_spans(spans),
        ]
        return Answer("".join([*texts, text_of(ours)]))


@contextmanager
def serving(probes: Probes, config: OrkestraConfig) -> Generator[None]:
    """Serve the probes in the block, where there is an address for them.

    Raises:
        ConfigurationError: The address cannot be listened on.
    """
    if config.worker.probes_address is None:
        yield
        return
    server = ProbeServer(
        config.worker.probes_address,
        {"/livez": probes.alive, "/readyz": probes.ready, "/metrics": probes.metrics},
    )
    _logger.info("Probes at %s/livez, /readyz and /metrics", server.url)
    try:
        yield
    finally:
        server.stop()


def _verdict(body: dict[str, object], *, is_good: bool) -> Answer:
    return Answer.of_json(body, HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE)
