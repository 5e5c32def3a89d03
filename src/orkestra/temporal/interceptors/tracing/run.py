"""What one workflow run knows of its trace. Pure: no clock, no randomness, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from temporalio import workflow
from temporalio.worker import HandleSignalInput, HandleUpdateInput

from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.delivery import signal_event_id
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    SpanRecord,
    TraceContext,
    capture,
    fitting,
    nanoseconds,
)

EMIT: Final = "__orkestra_emit_span"
"""The extern function that takes spans out of the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How runs are traced.

    Attributes:
        limits: What of values may be captured.
        ui_url: Where Temporal's web interface is.
        queries: Whether queries have spans.
    """

    limits: CaptureLimits
    ui_url: str | None = None
    queries: bool = False


class RunTrace:
    """The trace of one run, read when it is first asked for: `init` cannot ask for `info()`."""

    def __init__(self, options: RunOptions) -> None:
        """Trace by the options."""
        self.options = options
        self._spans: RunSpans | None = None
        self._signals = 0
        self._operations = 0

    @property
    def spans(self) -> RunSpans:
        """Where the run stands, and what its spans look like."""
        if self._spans is None:
            self._spans = RunSpans(_facts(self.options.ui_url))
        return self._spans

    def of_workflow(self, args: Sequence[Any]) -> Span:
        """The run's own span."""
        return self.spans.workflow(input=self.argument(args))

    def of_signal(self, input: HandleSignalInput) -> Span:
        """The span of the signal that is being handled."""
        self._signals += 1
        return self.spans.signal(
            input.signal,
            key=signal_event_id() or f"#{self._signals}",
            start_ns=workflow.time_ns(),
            sender=read_header(input.headers),
            input=self._live_argument(input.args),
        )

    def of_update(self, input: HandleUpdateInput) -> Span:
        """The span of an update."""
        return self.spans.update(
            input.update,
            update_id=input.id,
            start_ns=workflow.time_ns(),
            sender=read_header(input.headers),
            input=self._live_argument(input.args),
        )

    def argument(self, args: Sequence[Any]) -> Captured | None:
        """A picture of arguments."""
        limits = self.options.limits
        return capture(list(args), max_bytes=limits.max_bytes) if limits.input else None

    def result(self, value: object) -> Captured | None:
        """A picture of a result."""
        limits = self.options.limits
        return capture(value, max_bytes=limits.max_bytes) if limits.output else None

    def emit(self, span: Span, outcome: Outcome) -> None:
        """Send a span that has ended now, unless it was sent when this happened first."""
        if workflow.unsafe.is_replaying_history_events():
            return
        record = SpanRecord(span=span, outcome=outcome, end_ns=workflow.time_ns())
        cast("Any", workflow).extern_functions()[EMIT](record)

    def for_activity(self) -> TraceContext:
        """What an activity of this run is told; it knows the workflow's ID itself."""
        attributes = self.spans.facts.attributes
        if attributes.session_id == fitting(workflow.info().workflow_id):
            attributes = replace(attributes, session_id=None)
        return replace(self.spans.context, attributes=attributes)

    def for_local_activity(self) -> TraceContext:
        """What a local activity of this run is told: when its span begins, too."""
        return replace(self.for_activity(), start_ns=workflow.time_ns())

    def for_child(self) -> TraceContext:
        """What a child is told; it knows the ID of the root workflow, its session, itself."""
        return replace(self.spans.context, attributes=self.spans.facts.carried.attributes)

    def for_message(self) -> TraceContext:
        """What the receiver of a signal is told."""
        return self.spans.context

    def for_next_run(self) -> TraceContext | None:
        """What the run that continues this one is told: the same as this one was."""
        carried = self.spans.facts.carried
        return carried if carried.trace_id or carried.attributes else None

    def _live_argument(self, args: Sequence[Any]) -> Captured | None:
        """A picture of arguments, unless the span was sent when this happened first."""
        return None if workflow.unsafe.is_replaying_history_events() else self.argument(args)


def _facts(ui_url: str | None) -> RunFacts:
    info = workflow.info()
    carried = read_header(info.headers)
    tenant = current_tenant()
    root_id = info.root.workflow_id if info.root else info.workflow_id
    return RunFacts(
        namespace=info.namespace,
        workflow_id=info.workflow_id,
        run_id=info.run_id,
        first_run_id=info.first_execution_run_id or info.run_id,
        workflow_type=info.workflow_type,
        task_queue=info.task_queue,
        start_ns=nanoseconds(info.workflow_start_time),
        attempt=info.attempt,
        tenant=tenant,
        carried=carried,
        attributes=complete(carried.attributes, tenant=tenant, workflow_id=root_id),
        ui_url=ui_url,
    )
