"""Runs of workflows as their histories have them, with the runs that follow and the children.

When things of a history happened by the workflow's clock, which is when their spans begin.

Payloads of a history as values, without the types that the workflow's code knows.

The workflow's clock as a history tells it: what `workflow.time_ns()` said in the run.

The clock stands still while workflow code runs. Each workflow task that was completed sets it to
the time of the task's start event, and each local activity moves it on within a task, by the time
that its last attempt took. It never goes back.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.client import Client
from temporalio.converter import DataConverter, SerializationContext
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import ExecutionNotFoundError
from orkestra.tracing import nanoseconds

_UNKNOWN: Final = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT})

CLOSED: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    }
)
"""What the last event of a run can be."""


class Execution(NamedTuple):
    """One run of a workflow.

    Attributes:
        workflow_id: Its ID on the server.
        run_id: Its run ID; None means the latest.
    """

    workflow_id: str
    run_id: str | None = None


@dataclass(frozen=True)
class RunHistory:
    """All that the server has recorded of a run so far.

    Attributes:
        namespace: Namespace of the workflow.
        events: The events in order, the start first.
    """

    namespace: str
    events: Sequence[HistoryEvent]

    @property
    def started(self) -> WorkflowExecutionStartedEventAttributes:
        """How the run was started."""
        return self.events[0].workflow_execution_started_event_attributes

    @property
    def workflow_id(self) -> str:
        """Its ID on the server, whatever name it was asked for by."""
        return self.started.workflow_id

    @property
    def run_id(self) -> str:
        """Its run ID, which the start of a run that was reset does not say."""
        resets = [event for event in self.events if is_reset(event)]
        if resets:
            return resets[-1].workflow_task_failed_event_attributes.new_run_id
        return self.started.original_execution_run_id

    @property
    def first_run_id(self) -> str:
        """Run ID of the chain's first run."""
        return self.started.first_execution_run_id or self.run_id

    @property
    def end(self) -> HistoryEvent | None:
        """The event that closed the run; None while it is running."""
        last = self.events[-1]
        return last if last.event_type in CLOSED else None

    @property
    def reset_point(self) -> int:
        """The last event that was copied from the run that this one was reset from, or 0."""
        points = (event.event_id for event in self.events if is_reset(event))
        return max(points, default=0)

    def others(self) -> Iterator[Execution]:
        """Runs of the chain that it names: the next one, and those that it was reset from."""
        named = [event.workflow_task_failed_event_attributes.base_run_id for event in self.events]
        if self.end is not None:
            named.append(getattr(attributes_of(self.end), "new_execution_run_id", ""))
        for run_id in filter(None, named):
            yield Execution(self.workflow_id, run_id)

    def children(self) -> Iterator[Execution]:
        """The workflows that it started in this namespace, by Nexus operations, too."""
        for event in self.events:
            if event.HasField("child_workflow_execution_started_event_attributes"):
                child = event.child_workflow_execution_started_event_attributes
                if child.namespace in ("", self.namespace):
                    execution = child.workflow_execution
                    yield Execution(execution.workflow_id, execution.run_id)
            elif event.HasField("nexus_operation_started_event_attributes"):
                for link in event.links:
                    if link.workflow_event.namespace == self.namespace:
                        yield Execution(link.workflow_event.workflow_id, link.workflow_event.run_id)


def attributes_of(event: HistoryEvent) -> Any:
    """What the event says beside its time and type."""
    return getattr(event, event.WhichOneof("attributes") or "")


def is_reset(event: HistoryEvent) -> bool:
    """Whether the events before came from another run."""
    cause = event.workflow_task_failed_event_attributes.cause
    return cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW


def time_of(time: Timestamp) -> int:
    """A time of the server's as the SDK gives it to workers: nanoseconds, whole microseconds."""
    return nanoseconds(time.ToDatetime(tzinfo=UTC))


async def fetch_run(client: Client, execution: Execution) -> RunHistory:
    """Read the history of one run.

    Args:
        client: A client of its namespace that may read it.
        execution: The run.

    Raises:
        ExecutionNotFoundError: The server does not know it, or not any more.
    """
    handle = client.get_workflow_handle(execution.workflow_id, run_id=execution.run_id)
    try:
        events = [event async for event in handle.fetch_history_events()]
    except RPCError as error:
        if error.status in _UNKNOWN:
            raise _not_found(client, execution._replace(workflow_id=handle.id)) from error
        raise
    return RunHistory(client.namespace, events)


async def fetch_runs(
    client: Client, execution: Execution, *, children: bool, whole_chain: bool
) -> AsyncIterator[RunHistory]:
    """Read the history of a run and of what belongs to it, each once, parents first.

    What belongs to it and is not kept by the server any more is left out.

    Args:
        client: A client of its namespace that may read it.
        execution: The run to begin with.
        children: Whether to read the children of each run, and theirs.
        whole_chain: Whether to read all runs of the chain, and not this one alone.

    Raises:
        ExecutionNotFoundError: The server does not know the run to begin with.
    """
    asked = await fetch_run(client, execution)
    waiting = deque([Execution(asked.workflow_id, asked.run_id)])
    if whole_chain and asked.first_run_id != asked.run_id:
        waiting.appendleft(Execution(asked.workflow_id, asked.first_run_id))
    seen = {each.run_id for each in waiting}
    while waiting:
        next_one = waiting.popleft()
        is_asked = next_one.run_id == asked.run_id
        run = asked if is_asked else await _read_if_kept(client, next_one)
        if run is None:
            continue
        yield run
        following = [*run.children()] if children else []
        following += [*run.others()] if whole_chain else []
        for each in following:
            if each.run_id not in seen:
                seen.add(each.run_id)
                waiting.append(each)


async def _read_if_kept(client: Client, execution: Execution) -> RunHistory | None:
    try:
        return await fetch_run(client, execution)
    except ExecutionNotFoundError:
        return None


def _not_found(client: Client, execution: Execution) -> ExecutionNotFoundError:
    run = "" if execution.run_id is None else f" with the run {execution.run_id!r}"
    return ExecutionNotFoundError(
        f"namespace {client.namespace!r} has no workflow {execution.workflow_id!r}{run}:"
        " check the ID, the tenant and the namespace"
    )


class PayloadDecoder:
    """Decodes payloads in one context; what cannot be decoded is told by its size and encoding."""

    def __init__(self, converter: DataConverter, context: SerializationContext) -> None:
        """Decode with the client's converter, codec included."""
        self._converter = converter.with_context(context)

    async def arguments(self, payloads: Payloads | None) -> list[Any]:
        """Each payload's value."""
        if payloads is None or not payloads.payloads:
            return []
        try:
            return await self._converter.decode(payloads.payloads)
        except Exception:  # noqa: BLE001 - a codec raises what it likes, and some may be readable
            return [await self._value(payload) for payload in payloads.payloads]

    async def result(self, payloads: Payloads | None) -> Any:
        """The only value; None where there is none."""
        values = await self.arguments(payloads)
        return values[0] if len(values) == 1 else values or None

    async def failure(self, failure: Failure) -> BaseException:
        """The error that the failure stands for."""
        copied = Failure()
        copied.CopyFrom(failure)  # decoding writes into it
        try:
            return await self._converter.decode_failure(copied)
        except Exception:  # noqa: BLE001 - as above
            return ApplicationError(failure.message)

    async def _value(self, payload: Payload) -> Any:
        try:
            [value] = await self._converter.decode([payload])
        except Exception:  # noqa: BLE001 - as above
            encoding = payload.metadata.get("encoding", b"").decode("ascii", "replace")
            return f"<{len(payload.data)} bytes of {encoding or 'no encoding'}>"
        return value


_FIRST_ACTIVATION: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalActivityTimes:
    """What the marker of a local activity says of its times, in nanoseconds since 1970.

    Attributes:
        scheduled_wall_ns: `original_schedule_time`: by the wall clock of the worker.
        completed_ns: `complete_time`: by the workflow's clock.
        activation_index: In which activation of its task it was delivered, if the marker says so.
    """

    scheduled_wall_ns: int
    completed_ns: int
    activation_index: int | None = None


@dataclass(frozen=True, slots=True)
class _Tick:
    """A reading of the workflow's clock, and the worker's wall clock at or before it."""

    wall_ns: int
    clock_ns: int


class WorkflowClock:
    """Follows the clock of a run along its history.

    Call the methods in the order of the events: for each workflow task that was completed
    `task_completed()`, then for each marker of a local activity that the task recorded
    `local_activity()`. In between, `now_ns` is the clock at which the other events that the task
    recorded were issued: markers and commands stand in the order in which they came about.
    """

    def __init__(self) -> None:
        """Begin before the first task."""
        self.now_ns = 0
        self.delivered_ns = 0
        self._ticks: list[_Tick] = []
        self._scheduled: dict[int, int] = {}

    def task_completed(
        self,
        started_ns: int,
        markers: tuple[LocalActivityTimes, ...] = (),
        *,
        is_beat: bool = False,
    ) -> None:
        """Go on to a workflow task that was completed.

        Args:
            started_ns: Time of its event `WorkflowTaskStarted`.
            markers: Those of local activities that the task recorded.
            is_beat: Whether the task before recorded nothing but that it goes on: a heartbeat,
                during which local activities run on.

        Sets `delivered_ns`, the clock at which the task's signals and updates were delivered.
        """
        self.now_ns = max(self.now_ns, started_ns)
        with_first = (m.completed_ns for m in markers if m.activation_index == _FIRST_ACTIVATION)
        self.delivered_ns = max(self.now_ns, *with_first, 0)
        if not is_beat:
            self._ticks.clear()
        self._ticks.append(_Tick(started_ns if self._ticks else 0, self.now_ns))

    def local_activity(self, times: LocalActivityTimes) -> int:
        """Go on to the marker of a local activity.

        A local activity that backs off longer than a task leaves one marker for each time that it
        was scheduled, all with the same `scheduled_wall_ns`, and all its attempts begin with it.

        Returns:
            The clock when it was scheduled, at which its span begins: the latest reading that the
            worker had seen by then. Where local activities run across several workflow tasks, the
            clocks of server and worker are compared.
        """
        wall_ns = times.scheduled_wall_ns
        if wall_ns not in self._scheduled:
            seen = [tick.clock_ns for tick in self._ticks if tick.wall_ns <= wall_ns]
            self._scheduled[wall_ns] = max(seen, default=self.now_ns)
        scheduled_ns = self._scheduled[wall_ns]
        took_ns = times.completed_ns - scheduled_ns
        self.now_ns = max(self.now_ns, times.completed_ns)
        self._ticks.append(_Tick(wall_ns + max(took_ns, 0), times.completed_ns))
        return scheduled_ns


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
