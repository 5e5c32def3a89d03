"""What else a run did that has a span: timers, Nexus operations, and what did not come about.

A child that started has a span of its own, by its own history; so has a signal that arrived, by its
receiver's.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Final

from temporalio.api.history.v1 import HistoryEvent

from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.outcomes import failed, stopped
from orkestra.temporal.histories.reading import attributes_of
from orkestra.temporal.histories.telling import Telling
from orkestra.temporal.interceptors.tracing.header import read_nexus_header
from orkestra.tracing import Level, Outcome, Span

_TIMER_ENDS: Final[Mapping[str, str]] = {
    "timer_fired_event_attributes": "fired",
    "timer_canceled_event_attributes": "cancelled",
}
_MICROSECOND: Final = 1000


async def timers_of(telling: Telling) -> AsyncIterator[Episode]:
    """The timers that took long enough, or are to."""
    threshold = telling.options.timer_threshold
    ends = {
        attributes_of(event).started_event_id: event
        for event in telling.run.events
        if event.WhichOneof("attributes") in _TIMER_ENDS
    }
    for event in telling.run.events:
        if threshold is None or not event.HasField("timer_started_event_attributes"):
            continue
        end = ends.get(event.event_id)
        episode = _timer(telling, event, end)
        if episode.end_ns is None:
            lasts = event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        else:
            begun_ns = telling.timeline.at[event.event_id]
            lasts = timedelta(microseconds=(episode.end_ns - begun_ns) // _MICROSECOND)
        if lasts >= threshold and (end is None or not telling.is_inherited(end)):
            yield episode


def _timer(telling: Telling, event: HistoryEvent, end: HistoryEvent | None) -> Episode:
    how = event.timer_started_event_attributes
    span = telling.spans.timer(
        timer_id=how.timer_id,
        start_ns=telling.timeline.at[event.event_id],
        seconds=how.start_to_fire_timeout.ToTimedelta().total_seconds(),
    )
    # One that fired when nobody looked any more was never heard of.
    if end is None or end.event_id not in telling.timeline.at:
        return Episode(span=span)
    status = _TIMER_ENDS[end.WhichOneof("attributes") or ""]
    return telling.ended(span, Outcome(metadata={"status": status}), end)


async def operations_of(telling: Telling) -> AsyncIterator[Episode]:
    """The Nexus operations that the run called."""
    ends = {
        attributes_of(event).scheduled_event_id: event
        for event in telling.run.events
        if event.WhichOneof("attributes")
        in (
            "nexus_operation_completed_event_attributes",
            "nexus_operation_failed_event_attributes",
            "nexus_operation_timed_out_event_attributes",
            "nexus_operation_canceled_event_attributes",
        )
    }
    number = 0
    for event in telling.run.events:
        if not event.HasField("nexus_operation_scheduled_event_attributes"):
            continue
        number += 1
        end = ends.get(event.event_id)
        if end is None or not telling.is_inherited(end):
            span = await _operation(telling, event, number)
            if end is None:
                yield Episode(span=span)
            else:
                yield telling.ended(span, await _operation_outcome(telling, end), end)


async def _operation(telling: Telling, event: HistoryEvent, number: int) -> Span:
    how = event.nexus_operation_scheduled_event_attributes
    return telling.spans.nexus(
        number=number,
        endpoint=how.endpoint,
        service=how.service,
        operation=how.operation,
        start_ns=telling.timeline.at[event.event_id],
        carried=read_nexus_header(how.nexus_header),
        input=await telling.picture(how.input, is_wanted=telling.limits.input),
    )


async def _operation_outcome(telling: Telling, end: HistoryEvent) -> Outcome:
    if end.HasField("nexus_operation_completed_event_attributes"):
        result = end.nexus_operation_completed_event_attributes.result
        output = await telling.picture(result, is_wanted=telling.limits.output)
        return Outcome(output=output, metadata={"status": "completed"})
    if end.HasField("nexus_operation_canceled_event_attributes"):
        return stopped("cancelled", "cancelled")
    return failed(await telling.values.failure(attributes_of(end).failure))


async def refused_of(telling: Telling) -> AsyncIterator[Episode]:
    """Children that did not start and signals that did not arrive."""
    for event in telling.run.events:
        if telling.is_inherited(event):
            continue
        if event.HasField("start_child_workflow_execution_failed_event_attributes"):
            yield await _child(telling, event)
        elif event.HasField("signal_external_workflow_execution_failed_event_attributes"):
            yield await _signal(telling, event)


async def _child(telling: Telling, end: HistoryEvent) -> Episode:
    number = end.start_child_workflow_execution_failed_event_attributes.initiated_event_id
    how = telling.run.events[number - 1].start_child_workflow_execution_initiated_event_attributes
    span = telling.spans.child(
        how.workflow_type.name,
        child_id=how.workflow_id,
        start_ns=telling.timeline.at[number],
        input=await telling.input(how.input),
    )
    why = "a workflow of this ID already exists"
    return telling.ended(span, stopped("failed", why, level=Level.ERROR), end)


async def _signal(telling: Telling, end: HistoryEvent) -> Episode:
    number = end.signal_external_workflow_execution_failed_event_attributes.initiated_event_id
    how = telling.run.events[
        number - 1
    ].signal_external_workflow_execution_initiated_event_attributes
    span = telling.spans.undelivered(
        how.signal_name,
        workflow_id=how.workflow_execution.workflow_id,
        start_ns=telling.timeline.at[number],
        input=await telling.input(how.input),
    )
    why = "the workflow does not exist, or has ended"
    return telling.ended(span, stopped("failed", why, level=Level.ERROR), end)
