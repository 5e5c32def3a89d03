"""What everything that tells of a run needs: its events, its clock, its facts and its values.

What a history tells of one thing that happened: a span, ended or still going on.

Whose a run is and where it stands in its trace, as its worker read it.

Activities and local activities of a run: one span for the last attempt of each.

A history has neither the beginnings nor the failures of attempts before the last, and of a local
activity no arguments.

What else a run did that has a span: timers, Nexus operations, and what did not come about.

A child that started has a span of its own, by its own history; so has a signal that arrived, by its
receiver's.

Signals and updates of a run.

A history does not say whether a handler took a signal, nor when it was done with it. So each signal
that reached the workflow's code has a span, without a duration, once the run is closed.

How things ended, as their history has it.

All that a history tells of a run, as spans: those that its workers sent or would have sent.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, is_cancelled_exception

from orkestra.config import TenancySettings
from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantMismatchError
from orkestra.temporal.backfill.history import (
    PayloadDecoder,
    RunHistory,
    Timeline,
    attributes_of,
    time_of,
    timeline_of,
)
from orkestra.temporal.tenant.stamp import TenantPolicy
from orkestra.temporal.tracing import TracingOptions
from orkestra.temporal.tracing.headers import Headers, complete, read_header, read_nexus_header
from orkestra.tracing import (
    AttemptFacts,
    Captured,
    CaptureLimits,
    Level,
    MetadataValue,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    SpanRecord,
    TraceContext,
    activity_span,
    capture,
    capture_error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSpan:
    """A span as far as the history has it.

    Attributes:
        span: How it began.
        outcome: How it ended; None where that is not known.
        end_ns: When it ended, in nanoseconds since 1970; None where that is not known.
        is_abandoned: Whether its run ended without waiting for it; else what has no end yet is
            going on.
    """

    span: Span
    outcome: Outcome | None = None
    end_ns: int | None = None
    is_abandoned: bool = False

    @property
    def record(self) -> SpanRecord | None:
        """The span as it is sent; None where it has no end."""
        if self.outcome is None or self.end_ns is None:
            return None
        return SpanRecord(span=self.span, outcome=self.outcome, end_ns=self.end_ns)


_REFUSALS: Final = frozenset({TENANT_MISMATCH, TENANT_REQUIRED})


@dataclass(frozen=True)
class TenantResolver:
    """Reads tenants as workers do.

    Attributes:
        settings: The names under which tenants are carried.
    """

    settings: TenancySettings

    def of_run(self, run: RunHistory) -> str | None:
        """The tenant of a run: its header's, else its memo's.

        Nobody's where these cannot be read or the ID says otherwise, or the worker refused it.
        """
        if self.settings.mode == "off" or is_refused(run):
            return None
        policy, started = TenantPolicy(self.settings), run.started
        try:
            tenant = policy.read_header(started.header.fields) or policy.read_memo(
                started.memo.fields
            )
            if tenant is not None:
                policy.check_owner(tenant, run.workflow_id)
        except TenantMismatchError:
            return None
        return tenant

    def is_dropped(self, headers: Headers, tenant: str | None) -> bool:
        """Whether the worker dropped a signal of these headers, as from elsewhere."""
        if self.settings.mode == "off":
            return False
        try:
            sender = TenantPolicy(self.settings).read_header(headers)
        except TenantMismatchError:
            return True
        if sender is None and tenant is not None:
            return self.settings.mode == "required"
        return sender != tenant


def is_refused(run: RunHistory) -> bool:
    """Whether a worker refused the run for its tenant; then nothing of its values is shown."""
    if run.end is None:
        return False
    failure = run.end.workflow_execution_failed_event_attributes.failure
    return failure.application_failure_info.type in _REFUSALS


def run_info(run: RunHistory, tenants: TenantResolver, *, ui_url: str | None) -> RunFacts:
    """What all spans of a run share.

    Args:
        run: The run.
        tenants: Reads its tenant.
        ui_url: Where Temporal's web interface is, for the link.
    """
    started = run.started
    tenant = tenants.of_run(run)
    carried = read_header(started.header.fields)
    root_id = started.root_workflow_execution.workflow_id or run.workflow_id
    return RunFacts(
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        first_run_id=run.first_run_id,
        workflow_type=started.workflow_type.name,
        task_queue=started.task_queue.name,
        start_ns=time_of(run.events[0].event_time),
        attempt=max(started.attempt, 1),
        tenant=tenant,
        carried=carried,
        attributes=complete(carried.attributes, tenant=tenant, workflow_id=root_id),
        ui_url=ui_url,
    )


@dataclass(frozen=True)
class RunHistoryContext:
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
    tenants: TenantResolver
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
    def values(self) -> PayloadDecoder:
        """PayloadDecoder of the workflow's own."""
        context = WorkflowSerializationContext(self.run.namespace, self.run.workflow_id)
        return PayloadDecoder(self.converter, context)

    def values_of_activity(self, scheduled: Any) -> PayloadDecoder:
        """PayloadDecoder of an activity's."""
        return PayloadDecoder(
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

    async def input(
        self, payloads: Payloads, values: PayloadDecoder | None = None
    ) -> Captured | None:
        """A picture of arguments."""
        if not self.limits.input or is_refused(self.run):
            return None
        args = await (values or self.values).arguments(payloads)
        return capture(args, max_bytes=self.limits.max_bytes)

    async def output(
        self, payloads: Payloads, values: PayloadDecoder | None = None
    ) -> Captured | None:
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

    def ended(self, span: Span, outcome: Outcome, event: HistoryEvent) -> PartialSpan:
        """Something that ended with the event, by the time when the workflow heard of it."""
        at_ns = self.timeline.at.get(event.event_id) or time_of(event.event_time)
        return PartialSpan(span=span, outcome=outcome, end_ns=max(span.start_ns, at_ns))

    def is_inherited(self, event: HistoryEvent) -> bool:
        """Whether what ended with the event belongs to the run that was reset."""
        return event.event_id <= self.reset_point


_MILLISECOND: Final = 1_000_000
_ENDS: Final = (
    "activity_task_completed_event_attributes",
    "activity_task_failed_event_attributes",
    "activity_task_timed_out_event_attributes",
    "activity_task_canceled_event_attributes",
)


async def activity_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """The activities, those that are going on included."""
    ends: dict[int, HistoryEvent] = {}
    starts: dict[int, HistoryEvent] = {}
    for event in context.run.events:
        if event.HasField("activity_task_started_event_attributes"):
            starts[attributes_of(event).scheduled_event_id] = event
        elif event.WhichOneof("attributes") in _ENDS:
            ends[attributes_of(event).scheduled_event_id] = event
    for event in context.run.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            start, end = starts.get(event.event_id), ends.get(event.event_id)
            # An attempt that began before a reset is the other run's, however it ended here.
            last = start or end
            if last is None or not context.is_inherited(last):
                yield await _activity(context, event, start, end)
        elif event.event_id in context.timeline.local_activities and not context.is_inherited(
            event
        ):
            yield await _local_activity(context, event)


async def _activity(
    context: RunHistoryContext,
    scheduled: HistoryEvent,
    started: HistoryEvent | None,
    end: HistoryEvent | None,
) -> PartialSpan:
    how = scheduled.activity_task_scheduled_event_attributes
    values = context.values_of_activity(how)
    span = _span(context, scheduled, started, await context.input(how.input, values))
    if end is None:
        return PartialSpan(span=span)
    outcome = await _activity_outcome(context, values, end)
    return PartialSpan(span=span, outcome=outcome, end_ns=time_of(end.event_time))


def _span(
    context: RunHistoryContext,
    scheduled: HistoryEvent,
    started: HistoryEvent | None,
    taken: Captured | None,
) -> Span:
    how = scheduled.activity_task_scheduled_event_attributes
    began = scheduled if started is None else started
    attempt = 0 if started is None else started.activity_task_started_event_attributes.attempt
    span = activity_span(
        _facts(
            context,
            read_header(how.header.fields),
            run_id=context.facts.run_id,
            activity_id=how.activity_id,
            activity_type=how.activity_type.name,
            task_queue=how.task_queue.name,
            attempt=attempt,
            start_ns=time_of(began.event_time),
        ),
        input=taken,
    )
    return replace(span, metadata={**span.metadata, **_of_worker(scheduled, started)})


def _facts(context: RunHistoryContext, carried: TraceContext, **others: Any) -> AttemptFacts:
    """Below the run where no header says otherwise: its worker did not trace then."""
    run = context.facts
    attributes = run.attributes
    if carried.trace_id is None:
        carried = context.spans.context
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


async def _activity_outcome(
    context: RunHistoryContext, values: PayloadDecoder, end: HistoryEvent
) -> Outcome:
    kind, how = end.WhichOneof("attributes"), attributes_of(end)
    if kind == "activity_task_completed_event_attributes":
        output = await context.output(how.result, values)
        return Outcome(output=output, metadata={"status": "completed"})
    if kind == "activity_task_canceled_event_attributes":
        return terminal_outcome("cancelled", "cancelled")
    error = await values.failure(how.failure)
    if is_cancelled_exception(error):
        return terminal_outcome("cancelled", "cancelled")
    timed_out = kind == "activity_task_timed_out_event_attributes"
    return failure_outcome(error, status="timed_out" if timed_out else "failed")


async def _local_activity(context: RunHistoryContext, event: HistoryEvent) -> PartialSpan:
    said = context.timeline.local_activities[event.event_id]
    span = activity_span(
        _facts(
            context,
            TraceContext(),
            run_id=context.facts.run_id,
            activity_id=said.activity_id,
            activity_type=said.activity_type,
            task_queue=context.facts.task_queue,
            attempt=said.attempt,
            start_ns=context.timeline.at[event.event_id],
            is_local=True,
        )
    )
    marker = event.marker_recorded_event_attributes
    if marker.HasField("failure"):
        error = await context.values.failure(marker.failure)
        is_cancelled = is_cancelled_exception(error)
        outcome = (
            terminal_outcome("cancelled", "cancelled") if is_cancelled else failure_outcome(error)
        )
    else:
        output = await context.output(marker.details["result"])
        outcome = Outcome(output=output, metadata={"status": "completed"})
    return PartialSpan(
        span=span, outcome=outcome, end_ns=max(span.start_ns, said.times.completed_ns)
    )


_TIMER_ENDS: Final[Mapping[str, str]] = {
    "timer_fired_event_attributes": "fired",
    "timer_canceled_event_attributes": "cancelled",
}
_MICROSECOND: Final = 1000


async def timer_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """The timers that took long enough, or are to."""
    threshold = context.options.timer_threshold
    ends = {
        attributes_of(event).started_event_id: event
        for event in context.run.events
        if event.WhichOneof("attributes") in _TIMER_ENDS
    }
    for event in context.run.events:
        if threshold is None or not event.HasField("timer_started_event_attributes"):
            continue
        end = ends.get(event.event_id)
        episode = _timer(context, event, end)
        if episode.end_ns is None:
            lasts = event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        else:
            begun_ns = context.timeline.at[event.event_id]
            lasts = timedelta(microseconds=(episode.end_ns - begun_ns) // _MICROSECOND)
        if lasts >= threshold and (end is None or not context.is_inherited(end)):
            yield episode


def _timer(
    context: RunHistoryContext, event: HistoryEvent, end: HistoryEvent | None
) -> PartialSpan:
    how = event.timer_started_event_attributes
    span = context.spans.timer(
        timer_id=how.timer_id,
        start_ns=context.timeline.at[event.event_id],
        seconds=how.start_to_fire_timeout.ToTimedelta().total_seconds(),
    )
    # One that fired when nobody looked any more was never heard of.
    if end is None or end.event_id not in context.timeline.at:
        return PartialSpan(span=span)
    status = _TIMER_ENDS[end.WhichOneof("attributes") or ""]
    return context.ended(span, Outcome(metadata={"status": status}), end)


async def nexus_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """The Nexus operations that the run called."""
    ends = {
        attributes_of(event).scheduled_event_id: event
        for event in context.run.events
        if event.WhichOneof("attributes")
        in (
            "nexus_operation_completed_event_attributes",
            "nexus_operation_failed_event_attributes",
            "nexus_operation_timed_out_event_attributes",
            "nexus_operation_canceled_event_attributes",
        )
    }
    number = 0
    for event in context.run.events:
        if not event.HasField("nexus_operation_scheduled_event_attributes"):
            continue
        number += 1
        end = ends.get(event.event_id)
        if end is None or not context.is_inherited(end):
            span = await _operation(context, event, number)
            if end is None:
                yield PartialSpan(span=span)
            else:
                yield context.ended(span, await _operation_outcome(context, end), end)


async def _operation(context: RunHistoryContext, event: HistoryEvent, number: int) -> Span:
    how = event.nexus_operation_scheduled_event_attributes
    return context.spans.nexus(
        number=number,
        endpoint=how.endpoint,
        service=how.service,
        operation=how.operation,
        start_ns=context.timeline.at[event.event_id],
        carried=read_nexus_header(how.nexus_header),
        input=await context.picture(how.input, is_wanted=context.limits.input),
    )


async def _operation_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    if end.HasField("nexus_operation_completed_event_attributes"):
        result = end.nexus_operation_completed_event_attributes.result
        output = await context.picture(result, is_wanted=context.limits.output)
        return Outcome(output=output, metadata={"status": "completed"})
    if end.HasField("nexus_operation_canceled_event_attributes"):
        return terminal_outcome("cancelled", "cancelled")
    return failure_outcome(await context.values.failure(attributes_of(end).failure))


async def undelivered_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """Children that did not start and signals that did not arrive."""
    for event in context.run.events:
        if context.is_inherited(event):
            continue
        if event.HasField("start_child_workflow_execution_failed_event_attributes"):
            yield await _child(context, event)
        elif event.HasField("signal_external_workflow_execution_failed_event_attributes"):
            yield await _signal(context, event)


async def _child(context: RunHistoryContext, end: HistoryEvent) -> PartialSpan:
    number = end.start_child_workflow_execution_failed_event_attributes.initiated_event_id
    how = context.run.events[number - 1].start_child_workflow_execution_initiated_event_attributes
    span = context.spans.child(
        how.workflow_type.name,
        child_id=how.workflow_id,
        start_ns=context.timeline.at[number],
        input=await context.input(how.input),
    )
    why = "a workflow of this ID already exists"
    return context.ended(span, terminal_outcome("failed", why, level=Level.ERROR), end)


async def _signal(context: RunHistoryContext, end: HistoryEvent) -> PartialSpan:
    number = end.signal_external_workflow_execution_failed_event_attributes.initiated_event_id
    how = context.run.events[
        number - 1
    ].signal_external_workflow_execution_initiated_event_attributes
    span = context.spans.undelivered(
        how.signal_name,
        workflow_id=how.workflow_execution.workflow_id,
        start_ns=context.timeline.at[number],
        input=await context.input(how.input),
    )
    why = "the workflow does not exist, or has ended"
    return context.ended(span, terminal_outcome("failed", why, level=Level.ERROR), end)


async def signal_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """The signals that were delivered and not dropped for their tenant."""
    for event in context.run.events:
        if not event.HasField("workflow_execution_signaled_event_attributes"):
            continue
        signal = event.workflow_execution_signaled_event_attributes
        at_ns = context.timeline.at.get(event.event_id)
        headers = signal.header.fields
        is_dropped = context.tenants.is_dropped(headers, context.facts.tenant)
        if at_ns is None or is_dropped or context.is_inherited(event):
            continue
        span = context.spans.signal(
            signal.signal_name,
            key=event.event_id,
            start_ns=at_ns,
            sender=read_header(headers),
            input=await context.input(signal.input),
        )
        is_closed = context.run.end is not None
        yield PartialSpan(
            span=span,
            outcome=Outcome() if is_closed else None,
            end_ns=span.start_ns if is_closed else None,
        )


async def update_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """The updates that were accepted; a history has no others."""
    ends: dict[int, HistoryEvent] = {}
    for event in context.run.events:
        if event.HasField("workflow_execution_update_completed_event_attributes"):
            how = event.workflow_execution_update_completed_event_attributes
            ends[how.accepted_event_id] = event
    for event in context.run.events:
        if event.HasField("workflow_execution_update_accepted_event_attributes"):
            end = ends.get(event.event_id)
            if end is None or not context.is_inherited(end):
                yield await _update(context, event, end)


async def _update(
    context: RunHistoryContext, accepted: HistoryEvent, end: HistoryEvent | None
) -> PartialSpan:
    how = accepted.workflow_execution_update_accepted_event_attributes
    request = how.accepted_request
    span: Span = context.spans.update(
        request.input.name,
        update_id=request.meta.update_id or how.protocol_instance_id,
        start_ns=context.timeline.at[accepted.event_id],
        sender=read_header(request.input.header.fields),
        input=await context.input(request.input.args),
    )
    if end is not None:
        return context.ended(span, await _message_outcome(context, end), end)
    if context.run.end is not None:
        unfinished = terminal_outcome("unfinished", "the workflow ended before the update")
        return context.ended(span, unfinished, context.run.end)
    return PartialSpan(span=span)


async def _message_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    outcome = end.workflow_execution_update_completed_event_attributes.outcome
    if outcome.HasField("failure"):
        return failure_outcome(await context.values.failure(outcome.failure))
    return Outcome(output=await context.output(outcome.success))


_MAX_MESSAGE: Final = 4 * 1024


def failure_outcome(
    error: BaseException, *, status: str = "failed", more: Mapping[str, MetadataValue] | None = None
) -> Outcome:
    """It failed by the error, which is a warning only where its author says so.

    Args:
        error: What the failure in the history stands for.
        status: How it ended, in one word.
        more: More metadata.
    """
    is_benign = (
        isinstance(error, ApplicationError) and error.category is ApplicationErrorCategory.BENIGN
    )
    return Outcome(
        level=Level.WARNING if is_benign else Level.ERROR,
        message=capture_error(error, max_bytes=_MAX_MESSAGE),
        metadata={"status": status, **(more or {})},
    )


def terminal_outcome(status: str, message: str, *, level: Level = Level.WARNING) -> Outcome:
    """It was stopped from outside, which is no failure of its own.

    Args:
        status: How it ended, in one word.
        message: Why.
        level: What that means.
    """
    shown = Captured(message[:_MAX_MESSAGE], len(message) > _MAX_MESSAGE)
    return Outcome(level=level, message=shown, metadata={"status": status})


_EXTRACTORS: Final[tuple[Callable[[RunHistoryContext], AsyncIterator[PartialSpan]], ...]] = (
    activity_spans,
    signal_spans,
    update_spans,
    timer_spans,
    nexus_spans,
    undelivered_spans,
)


async def spans_from_history(context: RunHistoryContext) -> list[PartialSpan]:
    """Everything that a run's history tells, the run itself first."""
    found = [await _workflow(context)]
    for tell in _EXTRACTORS:
        found += [episode async for episode in tell(context)]
    is_closed = context.run.end is not None
    return [
        replace(episode, is_abandoned=True) if is_closed and episode.record is None else episode
        for episode in found
    ]


async def _workflow(context: RunHistoryContext) -> PartialSpan:
    span = context.spans.workflow(input=await context.input(context.run.started.input))
    end = context.run.end
    if end is None:
        return PartialSpan(span=span)
    return context.ended(span, await _workflow_outcome(context, end), end)


async def _workflow_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    match end.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            output = await context.output(end.workflow_execution_completed_event_attributes.result)
            return Outcome(output=output, metadata={"status": "completed"})
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return Outcome(metadata={"status": "continued_as_new"})
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            failure = end.workflow_execution_failed_event_attributes.failure
            return failure_outcome(await context.values.failure(failure))
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            return terminal_outcome("cancelled", "cancelled")
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            how = end.workflow_execution_terminated_event_attributes
            return terminal_outcome("terminated", f"terminated: {how.reason or 'no reason given'}")
        case _:
            return terminal_outcome("timed_out", "the workflow timed out", level=Level.ERROR)
