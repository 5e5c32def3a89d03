"""Signals and updates of a run.

A history does not say whether a handler took a signal, nor when it was done with it. So each signal
that reached the workflow's code has a span, without a duration, once the run is closed.
"""

from collections.abc import AsyncIterator

from temporalio.api.history.v1 import HistoryEvent

from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.outcomes import failed, stopped
from orkestra.temporal.histories.telling import Telling
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.tracing import Outcome, Span


async def signals_of(telling: Telling) -> AsyncIterator[Episode]:
    """The signals that were delivered and not dropped for their tenant."""
    for event in telling.run.events:
        if not event.HasField("workflow_execution_signaled_event_attributes"):
            continue
        signal = event.workflow_execution_signaled_event_attributes
        at_ns = telling.timeline.at.get(event.event_id)
        headers = signal.header.fields
        is_dropped = telling.tenants.is_dropped(headers, telling.facts.tenant)
        if at_ns is None or is_dropped or telling.is_inherited(event):
            continue
        span = telling.spans.signal(
            signal.signal_name,
            key=event.event_id,
            start_ns=at_ns,
            sender=read_header(headers),
            input=await telling.input(signal.input),
        )
        is_closed = telling.run.end is not None
        yield Episode(
            span=span,
            outcome=Outcome() if is_closed else None,
            end_ns=span.start_ns if is_closed else None,
        )


async def updates_of(telling: Telling) -> AsyncIterator[Episode]:
    """The updates that were accepted; a history has no others."""
    ends: dict[int, HistoryEvent] = {}
    for event in telling.run.events:
        if event.HasField("workflow_execution_update_completed_event_attributes"):
            how = event.workflow_execution_update_completed_event_attributes
            ends[how.accepted_event_id] = event
    for event in telling.run.events:
        if event.HasField("workflow_execution_update_accepted_event_attributes"):
            end = ends.get(event.event_id)
            if end is None or not telling.is_inherited(end):
                yield await _update(telling, event, end)


async def _update(telling: Telling, accepted: HistoryEvent, end: HistoryEvent | None) -> Episode:
    how = accepted.workflow_execution_update_accepted_event_attributes
    request = how.accepted_request
    span: Span = telling.spans.update(
        request.input.name,
        update_id=request.meta.update_id or how.protocol_instance_id,
        start_ns=telling.timeline.at[accepted.event_id],
        sender=read_header(request.input.header.fields),
        input=await telling.input(request.input.args),
    )
    if end is not None:
        return telling.ended(span, await _outcome(telling, end), end)
    if telling.run.end is not None:
        unfinished = stopped("unfinished", "the workflow ended before the update")
        return telling.ended(span, unfinished, telling.run.end)
    return Episode(span=span)


async def _outcome(telling: Telling, end: HistoryEvent) -> Outcome:
    outcome = end.workflow_execution_update_completed_event_attributes.outcome
    if outcome.HasField("failure"):
        return failed(await telling.values.failure(outcome.failure))
    return Outcome(output=await telling.output(outcome.success))
