"""Spans of a run rebuilt from its history: those that its workers sent or should have sent.

A rebuilt span has the same ids, parent, name and start time as the live one, so Langfuse can be
asked which of them it has. `spans_from_history()` runs one extractor for each kind of span. A
history knows less than a worker did:

- of an activity only the last attempt; of a local activity no arguments;
- of a signal neither whether a handler took it nor when the handler returned, so each delivered
  signal has a span without a duration once the run is closed;
- of updates only the accepted ones.

A child that started and a signal that arrived have their spans in other histories: the child's and
the receiver's. A reset run's history begins with events of the run that was reset, whose spans
belong to that run.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    WorkflowSerializationContext,
)
from temporalio.exceptions import is_cancelled_exception

from orkestra.config import TenancySettings
from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantMismatchError
from orkestra.temporal.backfill.history import (
    PayloadDecoder,
    RunHistory,
    Timeline,
    attributes_of,
    time_ns_of,
)
from orkestra.temporal.tenant.stamp import TenantCodec
from orkestra.temporal.tracing import TracingOptions
from orkestra.temporal.tracing.headers import (
    Headers,
    read_header,
    read_nexus_header,
    with_tenant_prefix,
)
from orkestra.temporal.tracing.outcomes import failure_outcome, terminal_outcome
from orkestra.tracing import (
    AttemptFacts,
    Captured,
    CaptureLimits,
    FinishedSpan,
    Level,
    MetadataValue,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    TraceContext,
    activity_span,
    capture,
)

_REFUSALS: Final = frozenset({TENANT_MISMATCH, TENANT_REQUIRED})
_MICROSECOND_NS: Final = 1_000
_MILLISECOND_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSpan:
    """Span as far as the history has it.

    Attributes:
        span: Its beginning.
        outcome: Its end; None if not known.
        end_ns: Time of its end, in nanoseconds since 1970; None if not known.
        is_abandoned: The run ended without waiting for it. A span without an end that is not
            abandoned is still running.
    """

    span: Span
    outcome: Outcome | None = None
    end_ns: int | None = None
    is_abandoned: bool = False

    @property
    def record(self) -> FinishedSpan | None:
        """Span as it is sent; None if it has no end."""
        if self.outcome is None or self.end_ns is None:
            return None
        return FinishedSpan(span=self.span, outcome=self.outcome, end_ns=self.end_ns)


@dataclass(frozen=True)
class TenantResolver:
    """Resolves tenants as workers with these settings do."""

    settings: TenancySettings

    def of_run(self, run: RunHistory) -> str | None:
        """Return the tenant in the header of a run, else the one in its memo.

        None if neither can be read, if the workflow ID names another tenant, or if the worker
        refused the run.
        """
        if self.settings.mode == "off" or is_refused(run):
            return None
        codec, started = TenantCodec(self.settings), run.started
        try:
            tenant = codec.read_header(started.header.fields) or codec.read_memo(
                started.memo.fields
            )
            # Anybody may write a header, so the workflow ID has to agree (B4).
            if tenant is not None:
                codec.check_owner(tenant, run.workflow_id)
        except TenantMismatchError:
            return None
        return tenant

    def is_dropped(self, headers: Headers, tenant: str | None) -> bool:
        """Tell whether the worker of the tenant dropped a signal with these headers."""
        if self.settings.mode == "off":
            return False
        return TenantCodec(self.settings).message_problem(headers, tenant) is not None


def is_refused(run: RunHistory) -> bool:
    """Tell whether a worker refused the run for its tenant. Its values must not be shown then."""
    if run.end is None:
        return False
    # In an end of another type this failure reads as empty.
    failure = run.end.workflow_execution_failed_event_attributes.failure
    return failure.application_failure_info.type in _REFUSALS


def run_info(run: RunHistory, tenants: TenantResolver, *, ui_url: str | None) -> RunFacts:
    """Collect what all spans of a run share."""
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
        start_ns=time_ns_of(run.events[0].event_time),
        attempt=max(started.attempt, 1),
        tenant=tenant,
        carried=carried,
        attributes=with_tenant_prefix(carried.attributes, tenant=tenant, workflow_id=root_id),
        ui_url=ui_url,
    )


@dataclass(frozen=True)
class RunHistoryContext:
    """Input of the extractors: one run, and how to read it."""

    run: RunHistory
    tenants: TenantResolver
    converter: DataConverter
    limits: CaptureLimits
    options: TracingOptions

    @cached_property
    def info(self) -> RunFacts:
        """Facts that all spans of the run share."""
        return run_info(self.run, self.tenants, ui_url=self.options.ui_url)

    @cached_property
    def spans(self) -> RunSpans:
        """Factory of the run's spans."""
        return RunSpans(self.info)

    @cached_property
    def timeline(self) -> Timeline:
        """Workflow clock at the run's events."""
        return Timeline(self.run.events)

    @cached_property
    def decoder(self) -> PayloadDecoder:
        """Decoder of the workflow's own payloads."""
        context = WorkflowSerializationContext(self.run.namespace, self.run.workflow_id)
        return PayloadDecoder(self.converter, context)

    @cached_property
    def _reset_point(self) -> int:
        return self.run.reset_point

    @cached_property
    def _is_refused(self) -> bool:
        return is_refused(self.run)

    def events(self, *kinds: str) -> Iterator[HistoryEvent]:
        """Yield the events of some kinds, for instance `timer_fired`."""
        return (event for event in self.run.events if _kind(event) in kinds)

    def answers(self, key: str, *kinds: str) -> dict[int, HistoryEvent]:
        """Index events of some kinds by the ID of the event that they answer."""
        return {getattr(attributes_of(event), key): event for event in self.events(*kinds)}

    async def input(
        self, payloads: Payloads, decoder: PayloadDecoder | None = None
    ) -> Captured | None:
        """Capture arguments."""
        if not self.limits.input or self._is_refused:
            return None
        arguments = await (decoder or self.decoder).arguments(payloads)
        return capture(arguments, max_bytes=self.limits.max_bytes)

    async def value(
        self, payloads: Payloads, *, is_wanted: bool, decoder: PayloadDecoder | None = None
    ) -> Captured | None:
        """Capture a single value."""
        if not is_wanted or self._is_refused:
            return None
        value = await (decoder or self.decoder).result(payloads)
        return capture(value, max_bytes=self.limits.max_bytes)

    async def completed(self, payloads: Payloads, decoder: PayloadDecoder | None = None) -> Outcome:
        """Capture a result as an outcome."""
        output = await self.value(payloads, is_wanted=self.limits.output, decoder=decoder)
        return Outcome(output=output, metadata={"status": "completed"})

    def ended(self, span: Span, outcome: Outcome, event: HistoryEvent) -> PartialSpan:
        """End a span when the workflow learned of the event."""
        # An event after the last completed task never reached the code, so its own time is used.
        at_ns = self.timeline.at.get(event.event_id) or time_ns_of(event.event_time)
        return PartialSpan(span=span, outcome=outcome, end_ns=max(span.start_ns, at_ns))

    def is_inherited(self, event: HistoryEvent | None) -> bool:
        """Tell whether a span that ended with the event belongs to the run that was reset."""
        return event is not None and event.event_id <= self._reset_point


def _kind(event: HistoryEvent) -> str:
    return (event.WhichOneof("attributes") or "").removesuffix("_event_attributes")


_CANCELLED: Final = terminal_outcome("cancelled", "cancelled")


async def spans_from_history(context: RunHistoryContext) -> list[PartialSpan]:
    """Rebuild all spans of a run, its workflow span first."""
    found = [await _workflow_span(context)]
    for extract in _EXTRACTORS:
        found += [partial async for partial in extract(context)]
    if context.run.end is None:
        return found
    return [each if each.record else replace(each, is_abandoned=True) for each in found]


async def _workflow_span(context: RunHistoryContext) -> PartialSpan:
    span = context.spans.workflow(input=await context.input(context.run.started.input))
    end = context.run.end
    if end is None:
        return PartialSpan(span=span)
    return context.ended(span, await _workflow_outcome(context, end), end)


async def _workflow_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    match end.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            return await context.completed(attributes_of(end).result)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return Outcome(metadata={"status": "continued_as_new"})
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return failure_outcome(await context.decoder.failure(attributes_of(end).failure))
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            return _CANCELLED
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            reason = attributes_of(end).reason or "no reason given"
            return terminal_outcome("terminated", f"terminated: {reason}")
        case _:
            return terminal_outcome("timed_out", "the workflow timed out", level=Level.ERROR)


async def _activity_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """Yield the last attempt of each activity, those that are running included."""
    starts = context.answers("scheduled_event_id", "activity_task_started")
    ends = context.answers(
        "scheduled_event_id",
        "activity_task_completed",
        "activity_task_failed",
        "activity_task_timed_out",
        "activity_task_canceled",
    )
    for event in context.run.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            start, end = starts.get(event.event_id), ends.get(event.event_id)
            # An attempt that began before a reset belongs to the other run, however it ended here.
            if not context.is_inherited(start or end):
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
    attributes = scheduled.activity_task_scheduled_event_attributes
    decoder = PayloadDecoder(
        context.converter,
        ActivitySerializationContext(
            namespace=context.run.namespace,
            activity_id=attributes.activity_id,
            activity_type=attributes.activity_type.name,
            activity_task_queue=attributes.task_queue.name,
            workflow_id=context.run.workflow_id,
            workflow_type=context.info.workflow_type,
            is_local=False,
        ),
    )
    facts = _attempt_facts(
        context,
        read_header(attributes.header.fields),
        activity_id=attributes.activity_id,
        activity_type=attributes.activity_type.name,
        task_queue=attributes.task_queue.name,
        # The server usually records the start of an attempt only when the attempt has ended.
        attempt=0 if started is None else attributes_of(started).attempt,
        start_ns=time_ns_of((started or scheduled).event_time),
    )
    span = activity_span(
        facts,
        input=await context.input(attributes.input, decoder),
        of_worker=_start_metadata(scheduled, started),
    )
    if end is None:
        return PartialSpan(span=span)
    outcome = await _activity_outcome(context, decoder, end)
    return PartialSpan(span=span, outcome=outcome, end_ns=time_ns_of(end.event_time))


def _attempt_facts(
    context: RunHistoryContext, carried: TraceContext, **others: Any
) -> AttemptFacts:
    run = context.info
    attributes = run.attributes
    if carried.trace_id is None:
        # A local activity, or a worker that did not trace: directly below the run.
        carried = context.spans.context
    else:
        attributes = with_tenant_prefix(
            carried.attributes, tenant=run.tenant, workflow_id=run.workflow_id
        )
    return AttemptFacts(
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        workflow_type=run.workflow_type,
        run_id=run.run_id,
        tenant=run.tenant,
        carried=carried,
        attributes=attributes,
        **others,
    )


def _start_metadata(
    scheduled: HistoryEvent, started: HistoryEvent | None
) -> dict[str, MetadataValue]:
    if started is None:
        return {}
    attributes = started.activity_task_started_event_attributes
    found: dict[str, MetadataValue] = {"worker": attributes.identity}
    # No event says when a retry was scheduled.
    if attributes.attempt == 1:
        waited_ns = time_ns_of(started.event_time) - time_ns_of(scheduled.event_time)
        found["schedule_to_start_ms"] = round(waited_ns / _MILLISECOND_NS, 3)
    return found


async def _activity_outcome(
    context: RunHistoryContext, decoder: PayloadDecoder, end: HistoryEvent
) -> Outcome:
    match _kind(end):
        case "activity_task_completed":
            return await context.completed(attributes_of(end).result, decoder)
        case "activity_task_canceled":
            return _CANCELLED
        case kind:
            error = await decoder.failure(attributes_of(end).failure)
            status = "timed_out" if kind == "activity_task_timed_out" else "failed"
            return (
                _CANCELLED
                if is_cancelled_exception(error)
                else failure_outcome(error, status=status)
            )


async def _local_activity(context: RunHistoryContext, event: HistoryEvent) -> PartialSpan:
    recorded = context.timeline.local_activities[event.event_id]
    facts = _attempt_facts(
        context,
        TraceContext(),
        activity_id=recorded.activity_id,
        activity_type=recorded.activity_type,
        task_queue=context.info.task_queue,
        attempt=recorded.attempt,
        start_ns=context.timeline.at[event.event_id],
        is_local=True,
    )
    span = activity_span(facts)
    marker = event.marker_recorded_event_attributes
    if marker.HasField("failure"):
        error = await context.decoder.failure(marker.failure)
        outcome = _CANCELLED if is_cancelled_exception(error) else failure_outcome(error)
    else:
        outcome = await context.completed(marker.details["result"])
    end_ns = max(span.start_ns, recorded.times.completed_ns)
    return PartialSpan(span=span, outcome=outcome, end_ns=end_ns)


async def _signal_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """Yield the signals that were delivered and not dropped for their tenant."""
    for event in context.events("workflow_execution_signaled"):
        signal = event.workflow_execution_signaled_event_attributes
        # Missing if no completed task has delivered the signal.
        at_ns = context.timeline.at.get(event.event_id)
        headers = signal.header.fields
        is_dropped = context.tenants.is_dropped(headers, context.info.tenant)
        if at_ns is None or is_dropped or context.is_inherited(event):
            continue
        span = context.spans.signal(
            signal.signal_name,
            key=event.event_id,
            start_ns=at_ns,
            sender=read_header(headers),
            input=await context.input(signal.input),
        )
        if context.run.end is None:
            yield PartialSpan(span=span)
        else:
            yield PartialSpan(span=span, outcome=Outcome(), end_ns=span.start_ns)


async def _update_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    ends = context.answers("accepted_event_id", "workflow_execution_update_completed")
    for event in context.events("workflow_execution_update_accepted"):
        end = ends.get(event.event_id)
        if context.is_inherited(end):
            continue
        accepted = event.workflow_execution_update_accepted_event_attributes
        request = accepted.accepted_request
        span = context.spans.update(
            request.input.name,
            update_id=request.meta.update_id or accepted.protocol_instance_id,
            start_ns=context.timeline.at[event.event_id],
            sender=read_header(request.input.header.fields),
            input=await context.input(request.input.args),
        )
        if end is not None:
            yield context.ended(span, await _update_outcome(context, end), end)
        elif context.run.end is not None:
            unfinished = terminal_outcome("unfinished", "the workflow ended before the update")
            yield context.ended(span, unfinished, context.run.end)
        else:
            yield PartialSpan(span=span)


async def _update_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    outcome = end.workflow_execution_update_completed_event_attributes.outcome
    if outcome.HasField("failure"):
        return failure_outcome(await context.decoder.failure(outcome.failure))
    # Without a status, like the live spans of handlers.
    return Outcome(output=await context.value(outcome.success, is_wanted=context.limits.output))


_TIMER_STATUSES: Final[Mapping[str, str]] = {"timer_fired": "fired", "timer_canceled": "cancelled"}


async def _timer_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """Yield the timers that ran, or are to run, for the threshold or longer."""
    threshold = context.options.timer_threshold
    if threshold is None:
        return
    ends = context.answers("started_event_id", *_TIMER_STATUSES)
    for event in context.events("timer_started"):
        end = ends.get(event.event_id)
        attributes = event.timer_started_event_attributes
        begun_ns = context.timeline.at[event.event_id]
        duration = attributes.start_to_fire_timeout.ToTimedelta()
        span = context.spans.timer(
            timer_id=attributes.timer_id, start_ns=begun_ns, seconds=duration.total_seconds()
        )
        partial = PartialSpan(span=span)
        # A timer that fired after the workflow's last task never reached its code.
        if end is not None and end.event_id in context.timeline.at:
            outcome = Outcome(metadata={"status": _TIMER_STATUSES[_kind(end)]})
            partial = context.ended(span, outcome, end)
        # The live span has the duration that it took, which cancellation cuts short.
        if partial.end_ns is not None:
            duration = timedelta(microseconds=(partial.end_ns - begun_ns) // _MICROSECOND_NS)
        if duration >= threshold and not context.is_inherited(end):
            yield partial


async def _nexus_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    ends = context.answers(
        "scheduled_event_id",
        "nexus_operation_completed",
        "nexus_operation_failed",
        "nexus_operation_timed_out",
        "nexus_operation_canceled",
    )
    for number, event in enumerate(context.events("nexus_operation_scheduled"), start=1):
        end = ends.get(event.event_id)
        # Skipped after they were numbered, because the worker's replay counts them as well.
        if context.is_inherited(end):
            continue
        scheduled = event.nexus_operation_scheduled_event_attributes
        argument = Payloads(payloads=[scheduled.input])
        span = context.spans.nexus(
            number=number,
            endpoint=scheduled.endpoint,
            service=scheduled.service,
            operation=scheduled.operation,
            start_ns=context.timeline.at[event.event_id],
            carried=read_nexus_header(scheduled.nexus_header),
            input=await context.value(argument, is_wanted=context.limits.input),
        )
        if end is None:
            yield PartialSpan(span=span)
        else:
            yield context.ended(span, await _nexus_outcome(context, end), end)


async def _nexus_outcome(context: RunHistoryContext, end: HistoryEvent) -> Outcome:
    match _kind(end):
        case "nexus_operation_completed":
            return await context.completed(Payloads(payloads=[attributes_of(end).result]))
        case "nexus_operation_canceled":
            return _CANCELLED
        case _:
            return failure_outcome(await context.decoder.failure(attributes_of(end).failure))


async def _undelivered_spans(context: RunHistoryContext) -> AsyncIterator[PartialSpan]:
    """Yield the children that did not start and the signals that did not arrive."""
    for end in context.events(
        "start_child_workflow_execution_failed", "signal_external_workflow_execution_failed"
    ):
        if context.is_inherited(end):
            continue
        initiated_id: int = attributes_of(end).initiated_event_id
        # Event IDs count from 1 and have no gaps.
        initiated = attributes_of(context.run.events[initiated_id - 1])
        start_ns = context.timeline.at[initiated_id]
        input = await context.input(initiated.input)
        if end.HasField("start_child_workflow_execution_failed_event_attributes"):
            reason = "a workflow of this ID already exists"
            span = context.spans.child(
                initiated.workflow_type.name,
                child_id=initiated.workflow_id,
                start_ns=start_ns,
                input=input,
            )
        else:
            reason = "the workflow does not exist, or has ended"
            span = context.spans.undelivered(
                initiated.signal_name,
                workflow_id=initiated.workflow_execution.workflow_id,
                start_ns=start_ns,
                input=input,
            )
        yield context.ended(span, terminal_outcome("failed", reason, level=Level.ERROR), end)


_EXTRACTORS: Final[tuple[Callable[[RunHistoryContext], AsyncIterator[PartialSpan]], ...]] = (
    _activity_spans,
    _signal_spans,
    _update_spans,
    _timer_spans,
    _nexus_spans,
    _undelivered_spans,
)
