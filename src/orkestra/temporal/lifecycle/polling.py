"""Whether a worker polls, read from the metrics of the core.

The number of pollers alone says little: it stays as it was while the server is away, and is 0
while every slot is busy; nor does the core count each poll that fails. So two things are trouble:
polls that are begun again and again while none is answered, for seconds and not just once; and a
kind of task with free slots and no poller.
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

_BEGUN: Final = "temporal_long_request"
_FAILED: Final = "temporal_long_request_failure"
_POLLERS: Final = "temporal_num_pollers"
_FREE_SLOTS: Final = "temporal_worker_task_slots_available"
_WORKFLOW_POLLS: Final = "PollWorkflowTaskQueue"
_ACTIVITY_POLLS: Final = "PollActivityTaskQueue"
_ANSWERED: Final = {
    "temporal_workflow_task_queue_poll_succeed": _WORKFLOW_POLLS,
    "temporal_workflow_task_queue_poll_empty": _WORKFLOW_POLLS,
    "temporal_activity_task_received": _ACTIVITY_POLLS,
    "temporal_activity_poll_no_task": _ACTIVITY_POLLS,
}
_NAMES: Final = (_BEGUN, _POLLERS, _FREE_SLOTS, *_ANSWERED)

_KINDS: Final = {
    "workflow_task": "WorkflowWorker",
    "sticky_workflow_task": "WorkflowWorker",
    "activity_task": "ActivityWorker",
    "nexus_task": "NexusWorker",
}

_PERSISTS: Final = 5.0
_FORGOTTEN: Final = 20.0


@dataclass
class Readings:
    """The figures of one worker at one time.

    Attributes:
        begun: By operation, how many polls were begun.
        answered: By operation, how many were answered, with a task or without.
        codes: By operation, what a poll failed with last, where the core tells it.
        pollers: By kind of task, how many polls wait at the server.
        free_slots: By kind of task, how many more could run.
    """

    begun: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    answered: dict[str, float] = field(default_factory=lambda: defaultdict(float))
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
        if name == _BEGUN:
            readings.begun[operation] += value
        elif name == _FAILED:
            readings.codes[operation] = labels.get("status_code", "")
        elif name in _ANSWERED:
            readings.answered[_ANSWERED[name]] += value
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
        for operation in (_WORKFLOW_POLLS, _ACTIVITY_POLLS):
            moment = self._clock()
            streak = self._streaks.get(operation)
            is_answered = now.answered[operation] > last.answered[operation]
            if is_answered or (streak is not None and moment - streak.last > _FORGOTTEN):
                self._streaks.pop(operation, None)
                continue
            if now.begun[operation] > last.begun[operation]:
                streak = self._streaks.setdefault(operation, _Streak(moment, moment))
                streak.last = moment
            if streak is not None and streak.last - streak.first >= _PERSISTS:
                code = now.codes.get(operation)
                return f"{operation} keeps failing" + (f": {code}" if code else "")
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
    """Polls begun without any that was answered: when first, and when last."""

    first: float
    last: float


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in text.splitlines():
        if line.startswith(_NAMES) and (match := _LINE.fullmatch(line)):
            labels = {k: _ESCAPE.sub(_unescaped, v) for k, v in _LABEL.findall(match[2])}
            yield match[1], labels, float(match[3])


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
