"""Run histories: fetched with their children and chain, decoded, and dated by the workflow's clock.

The hard part is the clock. A worker's spans begin at what `workflow.time_ns()` said, and no event
carries that time. The clock stands still while workflow code runs. Each completed workflow task
sets it to the time of the task's start event, and each local activity moves it forward within a
task, by the duration of its last attempt. It never goes back. `WorkflowClock` repeats these steps
and `Timeline` drives it along the events of a run.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

# The server answers INVALID_ARGUMENT where the run ID is not a UUID.
_NO_SUCH_RUN: Final = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT})
_CLOSING: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    }
)


class Execution(NamedTuple):
    """One run of a workflow; without a run ID the latest one."""

    workflow_id: str
    run_id: str | None = None


@dataclass(frozen=True)
class RunHistory:
    """Events of one run so far, the start first."""

    namespace: str
    events: Sequence[HistoryEvent]

    @property
    def started(self) -> WorkflowExecutionStartedEventAttributes:
        """Attributes of the first event."""
        return self.events[0].workflow_execution_started_event_attributes

    @property
    def workflow_id(self) -> str:
        """ID on the server, whatever ID the client asked for."""
        return self.started.workflow_id

    @property
    def run_id(self) -> str:
        """Run ID. The start event of a run that was reset has the ID of the original run."""
        resets = [event for event in self.events if _is_reset(event)]
        # A run that was reset again has copied the event of the earlier reset, too.
        if resets:
            return resets[-1].workflow_task_failed_event_attributes.new_run_id
        return self.started.original_execution_run_id

    @property
    def first_run_id(self) -> str:
        """Run ID of the chain's first run."""
        return self.started.first_execution_run_id or self.run_id

    @property
    def end(self) -> HistoryEvent | None:
        """Event that closed the run; None while it is running."""
        last = self.events[-1]
        return last if last.event_type in _CLOSING else None

    @property
    def reset_point(self) -> int:
        """ID of the last event that was copied from the run that was reset, or 0."""
        return max((event.event_id for event in self.events if _is_reset(event)), default=0)

    def chain(self) -> Iterator[Execution]:
        """Yield the runs of the chain that are named here: the next one, and those reset from."""
        # In events of other types this field reads as empty.
        named = [event.workflow_task_failed_event_attributes.base_run_id for event in self.events]
        if self.end is not None:
            named.append(getattr(attributes_of(self.end), "new_execution_run_id", ""))
        for run_id in filter(None, named):
            yield Execution(self.workflow_id, run_id)

    def children(self) -> Iterator[Execution]:
        """Yield the workflows that the run started in this namespace, also by Nexus operations."""
        for event in self.events:
            if event.HasField("child_workflow_execution_started_event_attributes"):
                child = event.child_workflow_execution_started_event_attributes
                if child.namespace in ("", self.namespace):
                    execution = child.workflow_execution
                    yield Execution(execution.workflow_id, execution.run_id)
            elif event.HasField("nexus_operation_started_event_attributes"):
                # Only the link names the workflow that runs the operation.
                for link in event.links:
                    if link.workflow_event.namespace == self.namespace:
                        yield Execution(link.workflow_event.workflow_id, link.workflow_event.run_id)


async def fetch_runs(
    client: Client, execution: Execution, *, children: bool, whole_chain: bool
) -> AsyncIterator[RunHistory]:
    """Fetch the history of a run and of its relatives, each once, parents first.

    Relatives that the server has deleted already are left out.

    Args:
        client: A client of the run's namespace that may read it.
        execution: The run to begin with.
        children: Also fetch the children of each run, and their children.
        whole_chain: Also fetch all other runs of the chain.

    Raises:
        ExecutionNotFoundError: The server does not know the run to begin with.
    """
    first = await _fetch_run(client, execution)
    waiting = deque([Execution(first.workflow_id, first.run_id)])
    if whole_chain and first.first_run_id != first.run_id:
        # The first run leads to the others, because each names only its successor.
        waiting.appendleft(Execution(first.workflow_id, first.first_run_id))
    seen = {each.run_id for each in waiting}
    while waiting:
        following = waiting.popleft()
        if following.run_id == first.run_id:
            run = first
        else:
            try:
                run = await _fetch_run(client, following)
            # The retention time of a relative may have passed before.
            except ExecutionNotFoundError:
                continue
        yield run
        relatives = [*run.children()] if children else []
        relatives += [*run.chain()] if whole_chain else []
        for relative in relatives:
            if relative.run_id not in seen:
                seen.add(relative.run_id)
                waiting.append(relative)


async def _fetch_run(client: Client, execution: Execution) -> RunHistory:
    handle = client.get_workflow_handle(execution.workflow_id, run_id=execution.run_id)
    try:
        events = [event async for event in handle.fetch_history_events()]
    except RPCError as error:
        if error.status not in _NO_SUCH_RUN:
            raise
        run = "" if execution.run_id is None else f" with the run {execution.run_id!r}"
        msg = (
            f"namespace {client.namespace!r} has no workflow {handle.id!r}{run}:"
            " check the ID, the tenant and the namespace"
        )
        raise ExecutionNotFoundError(msg) from error
    return RunHistory(client.namespace, events)


def attributes_of(event: HistoryEvent) -> Any:
    """Return the attributes of an event, whatever its type."""
    return getattr(event, event.WhichOneof("attributes") or "")


def _is_reset(event: HistoryEvent) -> bool:
    cause = event.workflow_task_failed_event_attributes.cause
    return cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW


def time_ns_of(time: Timestamp) -> int:
    """Convert a server time as the SDK does for workers: nanoseconds, cut to microseconds."""
    return nanoseconds(time.ToDatetime(tzinfo=UTC))


class PayloadDecoder:
    """Decodes the payloads of a history without the types that the workflow's code has.

    A payload that cannot be decoded is replaced by its size and encoding.
    """

    def __init__(self, converter: DataConverter, context: SerializationContext) -> None:
        self._converter = converter.with_context(context)

    async def arguments(self, payloads: Payloads | None) -> list[Any]:
        """Decode each payload."""
        if payloads is None or not payloads.payloads:
            return []
        try:
            return await self._converter.decode(payloads.payloads)
        except Exception:  # noqa: BLE001 - a codec raises what it likes, and some may be readable
            return [await self._value(payload) for payload in payloads.payloads]

    async def result(self, payloads: Payloads | None) -> Any:
        """Decode the only payload; None if there is none."""
        values = await self.arguments(payloads)
        return values[0] if len(values) == 1 else values or None

    async def failure(self, failure: Failure) -> BaseException:
        """Decode a failure into its exception."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalActivityTimes:
    """Times in the marker of a local activity, in nanoseconds since 1970.

    Attributes:
        scheduled_wall_ns: `original_schedule_time`, by the wall clock of the worker.
        completed_ns: `complete_time`, by the workflow's clock.
        activation_index: Activation of its task that delivered it, if the marker says so.
    """

    scheduled_wall_ns: int
    completed_ns: int
    activation_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalActivity:
    """Marker of a local activity; the attempt is the last one so far."""

    activity_id: str
    activity_type: str
    attempt: int
    times: LocalActivityTimes


class _Tick(NamedTuple):
    """Reading of the workflow's clock, and the worker's wall clock at or before it."""

    wall_ns: int
    clock_ns: int


class WorkflowClock:
    """Follows the clock of a run along its history.

    Call the methods in the order of the events: `task_completed()` for each completed workflow
    task, then `local_activity()` for each marker of a local activity that the task recorded. In
    between, `now_ns` is the clock at which the task's other commands were issued: markers and
    commands are recorded in the order in which the code issued them.
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
        """Advance to a completed workflow task.

        Also sets `delivered_ns`, the clock at which the task's signals and updates were delivered.

        Args:
            started_ns: Time of its event `WorkflowTaskStarted`.
            markers: Local activities that the task recorded.
            is_beat: The task before recorded no command: it was a heartbeat, and local activities
                ran on.
        """
        self.now_ns = max(self.now_ns, started_ns)
        # The task's first activation delivers its signals together with these results.
        resolved = (m.completed_ns for m in markers if m.activation_index == 0)
        self.delivered_ns = max(self.now_ns, *resolved, 0)
        if not is_beat:
            self._ticks.clear()
        # 0 on the first task: everything scheduled in it has seen this reading, even if the
        # worker's clock is behind the server's.
        self._ticks.append(_Tick(started_ns if self._ticks else 0, self.now_ns))

    def local_activity(self, times: LocalActivityTimes) -> int:
        """Advance to the marker of a local activity.

        A local activity that backs off longer than a task leaves one marker each time it was
        scheduled, all with the same `scheduled_wall_ns`, and all its attempts begin with it.

        Returns:
            The clock when it was scheduled, at which its span begins: the latest reading that the
            worker had seen by then. If local activities run across several workflow tasks, the
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


_LOCAL_ACTIVITY_MARKER: Final = "core_local_activity"
# Request ID of a workflow task that the server returned in its answer to another completion.
_INLINE_TASK: Final = "request-from-RespondWorkflowTaskCompleted"
_TASK_EVENTS: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
    }
)
# These name the task that issued the command, but are recorded later.
_FAILED_COMMANDS: Final = frozenset(
    {
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    }
)
_UPDATE_EVENTS: Final = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
    }
)


class Timeline:
    """Workflow clock at the events of a run.

    Attributes:
        at: Clock in nanoseconds since 1970, by event ID: when the workflow's code received the
            event or issued its command; for the marker of a local activity, when the activity was
            scheduled. Events that never reached the code are missing.
        local_activities: Contents of local activities' markers, by event ID.
    """

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        """Follow the clock along the events."""
        found = {event.event_id: _local_activity(event) for event in events}
        self.at: dict[int, int] = {}
        self.local_activities = {key: value for key, value in found.items() if value is not None}
        self._events = events
        self._clock = WorkflowClock()
        self._undelivered: list[int] = []
        self._is_idle = False
        self._completed_id = 0
        for index, event in enumerate(events):
            self._add(index, event)

    def _add(self, index: int, event: HistoryEvent) -> None:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            self._complete_task(index, event)
        elif event.event_type in _TASK_EVENTS:
            return
        elif event.event_id in self.local_activities:
            marker = self.local_activities[event.event_id]
            self.at[event.event_id] = self._clock.local_activity(marker.times)
        elif event.event_type in _UPDATE_EVENTS or _is_command(event):
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
        # Event IDs count from 1 and have no gaps.
        started = self._events[started_id - 1]
        markers: list[LocalActivityTimes] = []
        for recorded in self._events[index + 1 :]:
            if recorded.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                break
            if recorded.event_id in self.local_activities:
                markers.append(self.local_activities[recorded.event_id].times)
        is_inline = started.workflow_task_started_event_attributes.request_id == _INLINE_TASK
        # Only a heartbeat asks for a task right after another.
        is_forced = completed.scheduled_event_id == self._completed_id + 1
        self._clock.task_completed(
            started.event_time.ToNanoseconds(),
            tuple(markers),
            is_beat=self._is_idle and (is_inline or is_forced),
        )
        self._is_idle, self._completed_id = True, event.event_id
        # Events after the start of the task are for the next one.
        delivered = [number for number in self._undelivered if number < started_id]
        self._undelivered = self._undelivered[len(delivered) :]
        self.at |= dict.fromkeys(delivered, self._clock.delivered_ns)


def _is_command(event: HistoryEvent) -> bool:
    if event.event_type in _FAILED_COMMANDS:
        return False
    return bool(getattr(attributes_of(event), "workflow_task_completed_event_id", 0))


def _local_activity(event: HistoryEvent) -> LocalActivity | None:
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != _LOCAL_ACTIVITY_MARKER:
        return None
    try:
        data = json.loads(marker.details["data"].payloads[0].data)
        return LocalActivity(
            activity_id=data["activity_id"],
            activity_type=data["activity_type"],
            attempt=data["attempt"],
            times=LocalActivityTimes(
                scheduled_wall_ns=_marker_time_ns(data["original_schedule_time"]),
                completed_ns=_marker_time_ns(data["complete_time"]),
                activation_index=data.get("activation_index"),
            ),
        )
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # an SDK on another core writes its markers differently


def _marker_time_ns(time: Mapping[str, int]) -> int:
    return time["seconds"] * 1_000_000_000 + time["nanos"]
