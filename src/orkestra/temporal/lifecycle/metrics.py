"""What Orkestra counts besides the core, in the text form of Prometheus."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from orkestra.temporal.connection import Connection, ConnectionState
from orkestra.temporal.lifecycle.status import Status
from orkestra.tracing import SpanCounts

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
