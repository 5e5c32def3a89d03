"""`/livez`, `/readyz` and `/metrics`, served by a very small HTTP server on a thread of its own.

The server must answer while the event loop of the workers is stuck, because it is there to report
that. It serves a bounded number of connections and drops the oldest for a new one, so that neither
slow clients nor thousands of them take files and memory from the workers or delay a probe.
"""

import asyncio
import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal, Self

from temporalio.worker import Worker

from orkestra.config import OrkestraConfig
from orkestra.errors import ConfigurationError
from orkestra.temporal.connection import Connection, ConnectionState, ManagedServiceClient
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.manager import runtime_of
from orkestra.temporal.plugin import OrkestraPlugin, span_counts
from orkestra.temporal.run_worker.supervisor import ProcessStatus
from orkestra.tracing import SpanCounts

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")

_MAX_CONNECTIONS: Final = 64
_MAX_REQUEST_BYTES: Final = 8192
_REQUEST_TIMEOUT_SECONDS: Final = 5.0
_STOP_TIMEOUT_SECONDS: Final = 2.0

Handler = Callable[[], "ProbeResponse"]

_STATES: Final = (ConnectionState.OPEN, ConnectionState.SILENT, ConnectionState.CLOSED)
_SUMS: Final = (
    ("attempts", "connection_attempts", "Attempts to open a connection, rotations included."),
    ("failed_attempts", "connection_attempts_failed", "Attempts that failed."),
    ("rotations", "rotations", "Changed credentials that are in use."),
    ("failed_rotations", "rotations_failed", "Changed credentials that could not be used."),
    ("calls", "calls", "Calls that were sent, without long polls."),
    ("failed_calls", "calls_failed", "Calls without an answer, after the SDK's retries."),
    ("refused_calls", "calls_not_sent", "Calls that were not sent, because too many waited."),
)
"""Fields of `ConnectionCounters`, with the metric of each."""


@contextmanager
def serving(probes: "Probes", config: OrkestraConfig) -> Generator[None]:
    """Serve the probes in the block, if there is an address for them.

    Raises:
        ConfigurationError: The address is not free.
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


class Probes:
    """Responses of the probes.

    Attributes:
        workers: The workers, as soon as they exist.

    Args:
        status: Status of the process.
    """

    def __init__(self, status: ProcessStatus) -> None:
        self.workers: Sequence[Worker] = ()
        self._status = status

    def alive(self) -> "ProbeResponse":
        """Report whether the event loop runs; if not, the process should be killed."""
        return _health_response(self._status.liveness(), is_good=self._status.is_alive)

    def ready(self) -> "ProbeResponse":
        """Report whether every worker takes work."""
        return _health_response(self._status.readiness(), is_good=self._status.is_ready)

    def metrics(self) -> "ProbeResponse":
        """Report the core's metrics, where its runtime has them, and Orkestra's."""
        clients = [worker.client for worker in self.workers]
        runtimes = {id(found): found for client in clients if (found := runtime_of(client))}
        texts = [runtime.metrics_text() for runtime in runtimes.values()]
        plugins = {p for client in clients for p in client.config()["plugins"]}
        spans = span_counts([p for p in plugins if isinstance(p, OrkestraPlugin)])
        services = [unguarded_service(client) for client in clients]
        connections = {s.connection for s in services if isinstance(s, ManagedServiceClient)}
        own_metrics = [
            *metrics_of(self._status),
            *metrics_of_connections(connections),
            *metrics_of_spans(spans),
        ]
        return ProbeResponse("".join([*texts, metrics_text(own_metrics)]))


def _health_response(body: dict[str, object], *, is_good: bool) -> "ProbeResponse":
    return ProbeResponse.of_json(body, HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class ProbeResponse:
    """Response to a request."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; version=0.0.4; charset=utf-8"

    @classmethod
    def of_json(cls, value: Mapping[str, Any], status: HTTPStatus) -> Self:
        """Make a response in JSON."""
        return cls(json.dumps(value) + "\n", status, "application/json")


class ProbeServer:
    """HTTP server for `GET` and `HEAD` of some paths, until `stop()`.

    Args:
        address: `host:port`; port 0 is any free one.
        handlers: Functions by path; they are called in threads, and may be slow.

    Raises:
        ConfigurationError: The address is not free.
    """

    def __init__(self, address: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._socket = _listen(address)
        self._connections: dict[asyncio.StreamWriter, None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="orkestra-probes", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """URL without a path."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Stop answering."""
        with suppress(RuntimeError):  # stopped before
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_task(
            asyncio.start_server(self._serve, sock=self._socket, limit=_MAX_REQUEST_BYTES)
        )
        try:
            self._loop.run_forever()
        finally:
            left = [task for task in asyncio.all_tasks(self._loop) if task is not serving]
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = None
        if len(self._connections) > _MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._respond(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # no response to a client that sends nothing, sends too much or disconnects
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition("\r\n")[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        response = await self._answer(method, path)
        body = response.body.encode()
        lines = [
            f"HTTP/1.1 {response.status.value} {response.status.phrase}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if response.status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)

    async def _answer(self, method: str, path: str) -> ProbeResponse:
        handler = self._handlers.get(path)
        if handler is None:
            error = {"error": f"not found: use {', '.join(self._handlers)}"}
            return ProbeResponse.of_json(error, HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return ProbeResponse.of_json(
                {"error": "method not allowed: use GET"}, HTTPStatus.METHOD_NOT_ALLOWED
            )
        try:
            return await asyncio.to_thread(handler)
        except Exception:
            _logger.exception("The probe %s failed", path)
            return ProbeResponse.of_json(
                {"error": "the probe failed: see the log"},
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        msg = f"cannot listen on worker.probes_address {address!r}: {error}: set another address"
        raise ConfigurationError(msg) from error


@dataclass(frozen=True)
class Metric:
    """One metric and its samples, each with its labels; a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]

    def lines(self) -> Iterator[str]:
        """Format the metric in Prometheus's text format."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{shown}}} {value:g}" if shown else f"{self.name} {value:g}"


def metrics_text(metrics: Iterable[Metric]) -> str:
    """Format all metrics as one text."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def metrics_of(status: ProcessStatus) -> list[Metric]:
    """Make the metrics of the workers, labelled by namespace and task queue."""
    places = [({"namespace": w.namespace, "task_queue": w.task_queue}, w) for w in status.workers]
    served: dict[tuple[str, str], bool] = {}
    for worker in status.workers:
        server = worker.address, worker.namespace
        served[server] = served.get(server, True) and worker.unreachable is None
    return [
        Metric(
            "orkestra_worker_ready",
            "gauge",
            "Whether the worker takes work.",
            [(place, float(worker.problem is None)) for place, worker in places],
        ),
        Metric(
            "orkestra_worker_restarts_total",
            "counter",
            "How often a worker that failed was restarted.",
            [(place, worker.restarts) for place, worker in places],
        ),
        Metric(
            "orkestra_connection_up",
            "gauge",
            "Whether the server answers for the namespace.",
            [
                ({"address": address, "namespace": namespace}, float(is_served))
                for (address, namespace), is_served in served.items()
            ],
        ),
        Metric(
            "orkestra_event_loop_silence_seconds",
            "gauge",
            "Seconds since the event loop of the workers ran last.",
            [({}, round(status.silence, 3))],
        ),
    ]


def metrics_of_connections(connections: Collection[Connection]) -> list[Metric]:
    """Make the metrics of the workers' connections, with the sums of their managers."""
    states = Counter(str(each.state) for each in connections)
    counters = list({id(each.counters): each.counters for each in connections}.values())
    return [
        Metric(
            "orkestra_connections",
            "gauge",
            "Connections of the workers, by state.",
            [({"state": state}, states[state]) for state in _STATES],
        ),
        Metric(
            "orkestra_calls_waiting",
            "gauge",
            "Calls under way since the service has last answered, without long polls.",
            [({}, sum(each.calls_waiting for each in connections))],
        ),
        *(
            Metric(
                f"orkestra_{name}_total",
                "counter",
                text,
                [({}, sum(getattr(each, attribute) for each in counters))],
            )
            for attribute, name, text in _SUMS
        ),
    ]


def metrics_of_spans(counts: SpanCounts) -> list[Metric]:
    """Make the metrics of the spans."""
    return [
        Metric("orkestra_spans_sent_total", "counter", "Spans in Langfuse.", [({}, counts.sent)]),
        Metric(
            "orkestra_spans_held",
            "gauge",
            "Spans that wait until the server accepts the workflow task that made them.",
            [({}, counts.held)],
        ),
        Metric(
            "orkestra_spans_waiting", "gauge", "Spans that wait to be sent.", [({}, counts.waiting)]
        ),
        Metric(
            "orkestra_spans_lost_total",
            "counter",
            "Spans that did not reach Langfuse.",
            [({"reason": reason}, spans) for reason, spans in sorted(counts.lost.items())],
        ),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
