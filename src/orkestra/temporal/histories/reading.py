"""Runs of workflows as their histories have them, with the runs that follow and the children."""

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionStartedEventAttributes,
)
from temporalio.client import Client
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


async def read_run(client: Client, execution: Execution) -> RunHistory:
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


async def read_runs(
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
    asked = await read_run(client, execution)
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
        return await read_run(client, execution)
    except ExecutionNotFoundError:
        return None


def _not_found(client: Client, execution: Execution) -> ExecutionNotFoundError:
    run = "" if execution.run_id is None else f" with the run {execution.run_id!r}"
    return ExecutionNotFoundError(
        f"namespace {client.namespace!r} has no workflow {execution.workflow_id!r}{run}:"
        " check the ID, the tenant and the namespace"
    )
