"""What Orkestra counts besides the core, in the text form of Prometheus."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orkestra.temporal.lifecycle.status import Status


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
    namespaces = dict.fromkeys(worker.namespace for worker in status.workers)
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
            [({"namespace": n}, float(n not in status.unreachable)) for n in namespaces],
        ),
        Metric(
            "orkestra_event_loop_silence_seconds",
            "gauge",
            "How long ago the event loop of the workers ran last.",
            [({}, round(status.silence, 3))],
        ),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
