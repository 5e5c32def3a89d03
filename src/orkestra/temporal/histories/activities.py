"""Activities and local activities of a run: one span for the last attempt of each.

A history has neither the beginnings nor the failures of attempts before the last, and of a local
activity no arguments.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from temporalio.api.history.v1 import HistoryEvent
from temporalio.exceptions import is_cancelled_exception

from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.outcomes import failed, stopped
from orkestra.temporal.histories.reading import attributes_of, time_of
from orkestra.temporal.histories.telling import Telling
from orkestra.temporal.histories.values import Values
from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.tracing import (
    AttemptFacts,
    Captured,
    MetadataValue,
    Outcome,
    Span,
    TraceContext,
    activity_span,
)

_MILLISECOND: Final = 1_000_000
_ENDS: Final = (
    "activity_task_completed_event_attributes",
    "activity_task_failed_event_attributes",
    "activity_task_timed_out_event_attributes",
    "activity_task_canceled_event_attributes",
)


async def activities_of(telling: Telling) -> AsyncIterator[Episode]:
    """The activities, those that are going on included."""
    ends: dict[int, HistoryEvent] = {}
    starts: dict[int, HistoryEvent] = {}
    for event in telling.run.events:
        if event.HasField("activity_task_started_event_attributes"):
            starts[attributes_of(event).scheduled_event_id] = event
        elif event.WhichOneof("attributes") in _ENDS:
            ends[attributes_of(event).scheduled_event_id] = event
    for event in telling.run.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            start, end = starts.get(event.event_id), ends.get(event.event_id)
            # An attempt that began before a reset is the other run's, however it ended here.
            last = start or end
            if last is None or not telling.is_inherited(last):
                yield await _activity(telling, event, start, end)
        elif event.event_id in telling.timeline.local_activities and not telling.is_inherited(
            event
        ):
            yield await _local_activity(telling, event)


async def _activity(
    telling: Telling,
    scheduled: HistoryEvent,
    started: HistoryEvent | None,
    end: HistoryEvent | None,
) -> Episode:
    how = scheduled.activity_task_scheduled_event_attributes
    values = telling.values_of_activity(how)
    span = _span(telling, scheduled, started, await telling.input(how.input, values))
    if end is None:
        return Episode(span=span)
    outcome = await _outcome(telling, values, end)
    return Episode(span=span, outcome=outcome, end_ns=time_of(end.event_time))


def _span(
    telling: Telling,
    scheduled: HistoryEvent,
    started: HistoryEvent | None,
    taken: Captured | None,
) -> Span:
    how = scheduled.activity_task_scheduled_event_attributes
    began = scheduled if started is None else started
    attempt = 0 if started is None else started.activity_task_started_event_attributes.attempt
    span = activity_span(
        _facts(
            telling,
            read_header(how.header.fields),
            run_id=telling.facts.run_id,
            activity_id=how.activity_id,
            activity_type=how.activity_type.name,
            task_queue=how.task_queue.name,
            attempt=attempt,
            start_ns=time_of(began.event_time),
        ),
        input=taken,
    )
    return replace(span, metadata={**span.metadata, **_of_worker(scheduled, started)})


def _facts(telling: Telling, carried: TraceContext, **others: Any) -> AttemptFacts:
    """Below the run where no header says otherwise: its worker did not trace then."""
    run = telling.facts
    attributes = run.attributes
    if carried.trace_id is None:
        carried = telling.spans.context
    else:
        attributes = complete(carried.attributes, tenant=run.tenant, workflow_id=run.workflow_id)
    return AttemptFacts(
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        tenant=run.tenant,
        carried=carried,
        attributes=attributes,
        **others,
    )


def _of_worker(scheduled: HistoryEvent, started: HistoryEvent | None) -> dict[str, MetadataValue]:
    if started is None:
        return {}
    how = started.activity_task_started_event_attributes
    found: dict[str, MetadataValue] = {"worker": how.identity}
    if how.attempt == 1:
        waited_ns = time_of(started.event_time) - time_of(scheduled.event_time)
        found["schedule_to_start_ms"] = round(waited_ns / _MILLISECOND, 3)
    return found


async def _outcome(telling: Telling, values: Values, end: HistoryEvent) -> Outcome:
    kind, how = end.WhichOneof("attributes"), attributes_of(end)
    if kind == "activity_task_completed_event_attributes":
        output = await telling.output(how.result, values)
        return Outcome(output=output, metadata={"status": "completed"})
    if kind == "activity_task_canceled_event_attributes":
        return stopped("cancelled", "cancelled")
    error = await values.failure(how.failure)
    if is_cancelled_exception(error):
        return stopped("cancelled", "cancelled")
    timed_out = kind == "activity_task_timed_out_event_attributes"
    return failed(error, status="timed_out" if timed_out else "failed")


async def _local_activity(telling: Telling, event: HistoryEvent) -> Episode:
    said = telling.timeline.local_activities[event.event_id]
    span = activity_span(
        _facts(
            telling,
            TraceContext(),
            run_id=telling.facts.run_id,
            activity_id=said.activity_id,
            activity_type=said.activity_type,
            task_queue=telling.facts.task_queue,
            attempt=said.attempt,
            start_ns=telling.timeline.at[event.event_id],
            is_local=True,
        )
    )
    marker = event.marker_recorded_event_attributes
    if marker.HasField("failure"):
        error = await telling.values.failure(marker.failure)
        is_cancelled = is_cancelled_exception(error)
        outcome = stopped("cancelled", "cancelled") if is_cancelled else failed(error)
    else:
        output = await telling.output(marker.details["result"])
        outcome = Outcome(output=output, metadata={"status": "completed"})
    return Episode(span=span, outcome=outcome, end_ns=max(span.start_ns, said.times.completed_ns))
