"""Whether a worker polls, read from the metrics of the core.

The number of pollers alone says little: it stays as it was while the server is away, and is 0
while every slot is busy. So two things count as trouble: polls that keep failing, for seconds and
not just once; and a kind of task with free slots and no poller.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_LINE: Final = re.compile(r"(temporal_\w+)\{(.*)\} (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")

_REQUESTS: Final = "temporal_long_request"
_FAILURES: Final = "temporal_long_request_failure"
_POLLERS: Final = "temporal_num_pollers"
_FREE_SLOTS: Final = "temporal_worker_task_slots_available"
_NAMES: Final = (_REQUESTS, _POLLERS, _FREE_SLOTS)

_KINDS: Final = {
    "workflow_task": "WorkflowWorker",
    "sticky_workflow_task": "WorkflowWorker",
    "activity_task": "ActivityWorker",
    "nexus_task": "NexusWorker",
}

_PERSISTS: Final = 5.0
_FORGOTTEN: Final = 20.0
_MOSTLY: Final = 0.5


@dataclass
class Readings:
    """The figures of one worker at one time.

    Attributes:
        requests: By operation, how many polls were begun.
        failures: By operation, how many of them failed.
        codes: By operation, what they failed with.
        pollers: By kind of task, how many polls wait at the server.
        free_slots: By kind of task, how many more could run.
    """

    requests: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    codes: dict[str, str] = field(default_factory=dict[str, str])
    pollers: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    free_slots: dict[str, float] = field(default_factory=dict[str, float])


def read(text: str) -> dict[tuple[str, str], Readings]:
    """Find the figures of each worker in the core's metrics.

    Args:
        text: The metrics in the form of Prometheus.

    Returns:
        Readings by namespace and task queue.
    """
    found: dict[tuple[str, str], Readings] = defaultdict(Readings)
    for name, labels, value in _samples(text):
        readings = found[labels.get("namespace", ""), labels.get("task_queue", "")]
        operation = labels.get("operation", "")
        if name == _REQUESTS:
            readings.requests[operation] += value
        elif name == _FAILURES:
            readings.failures[operation] += value
            readings.codes[operation] = labels.get("status_code", "")
        elif name == _POLLERS and labels.get("poller_type") in _KINDS:
            readings.pollers[_KINDS[labels["poller_type"]]] += value
        elif name == _FREE_SLOTS:
            readings.free_slots[labels.get("worker_type", "")] = value
    return found


class PollJudge:
    """Says over time whether one worker polls.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: Readings | None = None
        self._streaks: dict[str, _Streak] = {}
        self._without_pollers: dict[str, float] = {}

    def problem(self, now: Readings) -> str | None:
        """Why the worker takes no work, as far as its figures tell; None where it does."""
        last, self._last = self._last or now, now
        return self._failing(last, now) or self._not_polling(now)

    def _failing(self, last: Readings, now: Readings) -> str | None:
        for operation, failures in now.failures.items():
            time_now = self._clock()
            new_failures = failures - last.failures[operation]
            streak = self._streaks.get(operation)
            if new_failures > 0:
                if streak is None:
                    streak = self._streaks[operation] = _Streak(time_now, time_now)
                streak.last = time_now
            if streak is None:
                continue
            streak.failures += new_failures
            streak.requests += now.requests[operation] - last.requests[operation]
            if time_now - streak.last > _FORGOTTEN:
                del self._streaks[operation]
            elif streak.is_trouble:
                return f"{operation} keeps failing: {now.codes[operation]}"
        return None

    def _not_polling(self, now: Readings) -> str | None:
        for kind, pollers in now.pollers.items():
            if pollers or not now.free_slots.get(kind):
                self._without_pollers.pop(kind, None)
                continue
            since = self._without_pollers.setdefault(kind, self._clock())
            if self._clock() - since >= _PERSISTS:
                return f"{kind} does not poll, although it has free slots"
        return None


@dataclass
class _Streak:
    """Failures without a long pause between them."""

    first: float
    last: float
    failures: float = 0.0
    requests: float = 0.0

    @property
    def is_trouble(self) -> bool:
        persists = self.last - self.first >= _PERSISTS
        return persists and self.failures >= _MOSTLY * self.requests


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in text.splitlines():
        if line.startswith(_NAMES) and (match := _LINE.fullmatch(line)):
            labels = {k: _ESCAPE.sub(_unescaped, v) for k, v in _LABEL.findall(match[2])}
            yield match[1], labels, float(match[3])


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
