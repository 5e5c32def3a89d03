"""`/livez`, `/readyz` and `/metrics`.

A very small HTTP server for probes, in a thread of its own.

It answers while the event loop of the workers is stuck, which is what it is there to tell. It
serves few connections at a time and drops the oldest for a new one, so that neither slow clients
nor thousands of them take files and memory away from the workers, or keep a probe from its answer.

What Orkestra counts besides the core, in the text form of Prometheus.
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
from orkestra.temporal.run_worker.supervisor import Status
from orkestra.tracing import SpanCounts

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")

_MOST_CONNECTIONS: Final = 64
_LONGEST_REQUEST: Final = 8192
_PATIENCE: Final = 5.0
_STOPPING: Final = 2.0


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; version=0.0.4; charset=utf-8"

    @classmethod
    def of_json(cls, value: Mapping[str, Any], status: HTTPStatus) -> Self:
        """An answer in JSON."""
        return cls(json.dumps(value) + "\n", status, "application/json")


Handler = Callable[[], Answer]


class ProbeServer:
    """Serves `GET` and `HEAD` of some paths until `stop()`.

    Args:
        address: `host:port`; port 0 is any free one.
        handlers: By path; they are called in threads, and may take their time.

    Raises:
        ConfigurationError: The address cannot be had.
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
        """Where it is, without a path."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Stop answering."""
        with suppress(RuntimeError):  # stopped before
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOPPING)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_task(
            asyncio.start_server(self._serve, sock=self._socket, limit=_LONGEST_REQUEST)
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
        if len(self._connections) > _MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._respond(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # a client that says nothing, too much or goes away needs no answer
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition("\r\n")[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        answer = await self._answer(method, path)
        body = answer.body.encode()
        lines = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)

    async def _answer(self, method: str, path: str) -> Answer:
        handler = self._handlers.get(path)
        if handler is None:
            known = {"error": f"there is {', '.join(self._handlers)}"}
            return Answer.of_json(known, HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return Answer.of_json({"error": "only GET"}, HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return await asyncio.to_thread(handler)
        except Exception:
            _logger.exception("No answer to %s", path)
            return Answer.of_json({"error": "see the log"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        msg = f"worker.probes_address {address!r} cannot be listened on: {error}: give another"
        raise ConfigurationError(msg) from error


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
        services = [unguarded_service(client) for client in clients]
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


_STATES: Final = (ConnectionState.OPEN, ConnectionState.SILENT, ConnectionState.CLOSED)
_SUMS: Final = (
    ("attempts", "connection_attempts", "Attempts to open a connection, rotations included."),
    ("failed_attempts", "connection_attempts_failed", "Attempts that failed."),
    ("rotations", "rotations", "Changed credentials that were taken up."),
    ("failed_rotations", "rotations_failed", "Changed credentials that could not be used."),
    ("calls", "calls", "Calls that were sent, without long polls."),
    ("failed_calls", "calls_failed", "Calls without an answer, after the SDK's retries."),
    ("refused_calls", "calls_not_sent", "Calls that were not sent, because too many waited."),
)
"""Fields of `ConnectionCounters`, with the metric of each."""


@dataclass(frozen=True)
class Metric:
    """One metric and its samples.

    Attributes:
        name: Its name; a counter's ends in `_total`.
        kind: Whether it only grows.
        help: What it says.
        samples: Labels and value of each sample.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{shown}}} {value:g}" if shown else f"{self.name} {value:g}"


def text_of(metrics: Iterable[Metric]) -> str:
    """All metrics as one text."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def metrics_of(status: Status) -> list[Metric]:
    """What the status says, as metrics; the labels are the queues and namespaces of the workers."""
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
            "How often a worker that failed was made anew.",
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
            "How long ago the event loop of the workers ran last.",
            [({}, round(status.silence, 3))],
        ),
    ]


def metrics_of_connections(connections: Collection[Connection]) -> list[Metric]:
    """What the workers' connections do, and what all those of their managers have done."""
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
    """What became of the spans."""
    return [
        Metric("orkestra_spans_sent_total", "counter", "Spans in Langfuse.", [({}, counts.sent)]),
        Metric(
            "orkestra_spans_held",
            "gauge",
            "Spans that wait for the server to take the workflow task that made them.",
            [({}, counts.held)],
        ),
        Metric(
            "orkestra_spans_waiting", "gauge", "Spans that wait to be sent.", [({}, counts.waiting)]
        ),
        Metric(
            "orkestra_spans_lost_total",
            "counter",
            "Spans that did not get to Langfuse.",
            [({"reason": reason}, spans) for reason, spans in sorted(counts.lost.items())],
        ),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
