"""All that a history tells of a run, as spans: those that its workers sent or would have sent."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from orkestra.temporal.histories.activities import activities_of
from orkestra.temporal.histories.commands import operations_of, refused_of, timers_of
from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.messages import signals_of, updates_of
from orkestra.temporal.histories.outcomes import failed, stopped
from orkestra.temporal.histories.telling import Telling
from orkestra.tracing import Level, Outcome

_TELLERS: Final[tuple[Callable[[Telling], AsyncIterator[Episode]], ...]] = (
    activities_of,
    signals_of,
    updates_of,
    timers_of,
    operations_of,
    refused_of,
)


async def episodes_of(telling: Telling) -> list[Episode]:
    """Everything that a run's history tells, the run itself first."""
    found = [await _workflow(telling)]
    for tell in _TELLERS:
        found += [episode async for episode in tell(telling)]
    is_closed = telling.run.end is not None
    return [
        replace(episode, is_abandoned=True) if is_closed and episode.record is None else episode
        for episode in found
    ]


async def _workflow(telling: Telling) -> Episode:
    span = telling.spans.workflow(input=await telling.input(telling.run.started.input))
    end = telling.run.end
    if end is None:
        return Episode(span=span)
    return telling.ended(span, await _outcome(telling, end), end)


async def _outcome(telling: Telling, end: HistoryEvent) -> Outcome:
    match end.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            output = await telling.output(end.workflow_execution_completed_event_attributes.result)
            return Outcome(output=output, metadata={"status": "completed"})
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return Outcome(metadata={"status": "continued_as_new"})
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            failure = end.workflow_execution_failed_event_attributes.failure
            return failed(await telling.values.failure(failure))
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            return stopped("cancelled", "cancelled")
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            how = end.workflow_execution_terminated_event_attributes
            return stopped("terminated", f"terminated: {how.reason or 'no reason given'}")
        case _:
            return stopped("timed_out", "the workflow timed out", level=Level.ERROR)
