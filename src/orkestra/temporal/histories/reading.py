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

    @property
    def next_run_id(self) -> str | None:
        """The run that continues, retries or follows this one on its schedule."""
        if self.end is None:
            return None
        return getattr(attributes_of(self.end), "new_execution_run_id", None) or None

    def children(self) -> Iterator[Execution]:
        """The children that were started, in this namespace."""
        for event in self.events:
            if event.HasField("child_workflow_execution_started_event_attributes"):
                child = event.child_workflow_execution_started_event_attributes
                if child.namespace in ("", self.namespace):
                    execution = child.workflow_execution
                    yield Execution(execution.workflow_id, execution.run_id)


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
    run = await read_run(client, execution)
    if whole_chain:
        first = Execution(run.workflow_id, run.first_run_id)
        run = await _read_if_kept(client, first) or run
    waiting, seen = deque([run]), {run.run_id}
    while waiting:
        run = waiting.popleft()
        yield run
        following = list(run.children()) if children else []
        if whole_chain and run.next_run_id is not None:
            following.append(Execution(run.workflow_id, run.next_run_id))
        for each in following:
            if each.run_id not in seen:
                seen.add(each.run_id or "")
                found = await _read_if_kept(client, each)
                waiting.extend([] if found is None else [found])


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
