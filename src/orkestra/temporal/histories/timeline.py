"""When things of a history happened by the workflow's clock, which is when their spans begin."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from orkestra.temporal.histories.reading import attributes_of
from orkestra.tracing import LocalActivityTimes, WorkflowClock

_LOCAL_ACTIVITY: Final = "core_local_activity"
_NANOSECONDS: Final = 1_000_000_000
_INLINE: Final = "request-from-RespondWorkflowTaskCompleted"
"""What the server calls a task that it gave in answer to another one's completion."""

_TASKS: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
    }
)
_FAILED_COMMANDS: Final = frozenset(
    {
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    }
)
"""They name the task that issued the command, but come later."""

_UPDATES: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalActivity:
    """What the marker of a local activity says.

    Attributes:
        activity_id: Its activity ID.
        activity_type: Its type.
        attempt: The last attempt so far.
        times: When it was scheduled and ended.
    """

    activity_id: str
    activity_type: str
    attempt: int
    times: LocalActivityTimes


@dataclass(frozen=True)
class Timeline:
    """The workflow's clock at the events of a run.

    Attributes:
        at: The clock, in nanoseconds since 1970, by event ID: when the event was delivered to the
            workflow's code or what it stands for was issued by it; of a local activity's marker
            when it was scheduled. Events that were never delivered are not in it.
        local_activities: What markers of local activities say, by event ID.
    """

    at: Mapping[int, int]
    local_activities: Mapping[int, LocalActivity]


def timeline_of(events: Sequence[HistoryEvent]) -> Timeline:
    """Follow the clock along a history."""
    walk = _Walk(events)
    for index, event in enumerate(events):
        walk.go_to(index, event)
    return Timeline(walk.at, walk.markers)


@dataclass
class _Walk:
    events: Sequence[HistoryEvent]
    at: dict[int, int] = field(default_factory=dict[int, int])
    markers: dict[int, LocalActivity] = field(init=False)
    _clock: WorkflowClock = field(default_factory=WorkflowClock)
    _undelivered: list[int] = field(default_factory=list[int])
    _is_idle: bool = False
    _completed_id: int = 0

    def __post_init__(self) -> None:
        found = ((event.event_id, _local_activity(event)) for event in self.events)
        self.markers = {number: marker for number, marker in found if marker is not None}

    def go_to(self, index: int, event: HistoryEvent) -> None:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            self._complete_task(index, event)
        elif event.event_type in _TASKS:
            return
        elif event.event_id in self.markers:
            marker = self.markers[event.event_id]
            self.at[event.event_id] = self._clock.local_activity(marker.times)
        elif event.event_type in _UPDATES or _is_command(event):
            self._is_idle = False
            is_accepted = (
                event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
            )
            now_ns = self._clock.delivered_ns if is_accepted else self._clock.now_ns
            self.at[event.event_id] = now_ns
        else:
            self._undelivered.append(event.event_id)

    def _complete_task(self, index: int, event: HistoryEvent) -> None:
        completed = event.workflow_task_completed_event_attributes
        started_id = completed.started_event_id
        # IDs count from 1 and have no gaps.
        started = self.events[started_id - 1]
        recorded = self.events[index + 1 :]
        markers: list[LocalActivityTimes] = []
        for each in recorded:
            if each.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                break
            if each.event_id in self.markers:
                markers.append(self.markers[each.event_id].times)
        is_inline = started.workflow_task_started_event_attributes.request_id == _INLINE
        # Nothing else than a heartbeat asks for a task right after another.
        is_forced = completed.scheduled_event_id == self._completed_id + 1
        self._clock.task_completed(
            started.event_time.ToNanoseconds(),
            tuple(markers),
            is_beat=self._is_idle and (is_inline or is_forced),
        )
        self._is_idle, self._completed_id = True, event.event_id
        delivered = [number for number in self._undelivered if number < started_id]
        self._undelivered = self._undelivered[len(delivered) :]
        for number in delivered:
            self.at[number] = self._clock.delivered_ns


def _is_command(event: HistoryEvent) -> bool:
    if event.event_type in _FAILED_COMMANDS:
        return False
    return bool(getattr(attributes_of(event), "workflow_task_completed_event_id", 0))


def _local_activity(event: HistoryEvent) -> LocalActivity | None:
    if not event.HasField("marker_recorded_event_attributes"):
        return None
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != _LOCAL_ACTIVITY:
        return None
    try:
        return _said(json.loads(marker.details["data"].payloads[0].data))
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # of another core, which writes it otherwise


def _said(data: Mapping[str, Any]) -> LocalActivity:
    return LocalActivity(
        activity_id=data["activity_id"],
        activity_type=data["activity_type"],
        attempt=data["attempt"],
        times=LocalActivityTimes(
            scheduled_wall_ns=_nanoseconds(data["original_schedule_time"]),
            completed_ns=_nanoseconds(data["complete_time"]),
            activation_index=data.get("activation_index"),
        ),
    )


def _nanoseconds(time: Mapping[str, int]) -> int:
    return time["seconds"] * _NANOSECONDS + time["nanos"]
