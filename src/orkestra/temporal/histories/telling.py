"""What everything that tells of a run needs: its events, its clock, its facts and its values."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    WorkflowSerializationContext,
)

from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.facts import TenantReader, is_refused
from orkestra.temporal.histories.reading import RunHistory, time_of
from orkestra.temporal.histories.timeline import Timeline, timeline_of
from orkestra.temporal.histories.values import Values
from orkestra.temporal.interceptors.tracing import TracingOptions
from orkestra.tracing import Captured, CaptureLimits, Outcome, RunFacts, RunSpans, Span, capture


@dataclass(frozen=True)
class Telling:
    """A run that is being told.

    Attributes:
        run: Its history.
        facts: What all its spans share.
        tenants: Reads tenants.
        converter: Decodes values.
        limits: What of values may be captured.
        options: Which spans are made of workflows.
    """

    run: RunHistory
    facts: RunFacts
    tenants: TenantReader
    converter: DataConverter
    limits: CaptureLimits
    options: TracingOptions

    @cached_property
    def spans(self) -> RunSpans:
        """How its spans begin."""
        return RunSpans(self.facts)

    @cached_property
    def timeline(self) -> Timeline:
        """The workflow's clock at its events."""
        return timeline_of(self.run.events)

    @cached_property
    def reset_point(self) -> int:
        """What ended at or before this event belongs to the run that was reset."""
        return self.run.reset_point

    @cached_property
    def values(self) -> Values:
        """Values of the workflow's own."""
        context = WorkflowSerializationContext(self.run.namespace, self.run.workflow_id)
        return Values(self.converter, context)

    def values_of_activity(self, scheduled: Any) -> Values:
        """Values of an activity's."""
        return Values(
            self.converter,
            ActivitySerializationContext(
                namespace=self.run.namespace,
                activity_id=scheduled.activity_id,
                activity_type=scheduled.activity_type.name,
                activity_task_queue=scheduled.task_queue.name,
                workflow_id=self.run.workflow_id,
                workflow_type=self.facts.workflow_type,
                is_local=False,
            ),
        )

    async def input(self, payloads: Payloads, values: Values | None = None) -> Captured | None:
        """A picture of arguments."""
        if not self.limits.input or is_refused(self.run):
            return None
        args = await (values or self.values).arguments(payloads)
        return capture(args, max_bytes=self.limits.max_bytes)

    async def output(self, payloads: Payloads, values: Values | None = None) -> Captured | None:
        """A picture of a result."""
        if not self.limits.output or is_refused(self.run):
            return None
        result = await (values or self.values).result(payloads)
        return capture(result, max_bytes=self.limits.max_bytes)

    async def picture(self, payload: Payload, *, is_wanted: bool) -> Captured | None:
        """A picture of one value that is not one of several arguments."""
        if not is_wanted or is_refused(self.run):
            return None
        value = await self.values.result(Payloads(payloads=[payload]))
        return capture(value, max_bytes=self.limits.max_bytes)

    def ended(self, span: Span, outcome: Outcome, event: HistoryEvent) -> Episode:
        """Something that ended with the event, by the time when the workflow heard of it."""
        at_ns = self.timeline.at.get(event.event_id) or time_of(event.event_time)
        return Episode(span=span, outcome=outcome, end_ns=max(span.start_ns, at_ns))

    def is_inherited(self, event: HistoryEvent) -> bool:
        """Whether what ended with the event belongs to the run that was reset."""
        return event.event_id <= self.reset_point
