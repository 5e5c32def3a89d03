"""What one workflow run knows of its trace. Pure: no clock, no randomness, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from temporalio import workflow

from orkestra.temporal.interceptors.tracing.attributes import complete
from orkestra.temporal.interceptors.tracing.header import read_header
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    MetadataValue,
    Outcome,
    Span,
    SpanKind,
    SpanRecord,
    TraceAttributes,
    TraceContext,
    capture,
    fitting,
    message_span_id,
    nanoseconds,
    trace_id_of,
    workflow_span_id,
)

EMIT: Final = "__orkestra_emit_span"
"""The extern function that takes spans out of the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands in its trace.

    Attributes:
        trace_id: The trace.
        span_id: The run's own span.
        parent_id: What the run's span hangs under: the parent workflow's span, the caller's, or
            the first run's for later runs of a chain.
        carried: What the start's header said, which the next run of the chain gets again.
        attributes: The trace's attributes as they are shown.
        tenant: The run's tenant.
        metadata: What every span of the run says.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    carried: TraceContext
    attributes: TraceAttributes
    tenant: str | None
    metadata: dict[str, MetadataValue]


class RunTrace:
    """The trace of one run, read when it is first asked for: `init` cannot ask for `info()`."""

    def __init__(self, limits: CaptureLimits) -> None:
        """Capture within the limits."""
        self._limits = limits
        self._position: Position | None = None
        self._signals = 0

    @property
    def position(self) -> Position:
        """Where the run stands."""
        if self._position is None:
            self._position = _position()
        return self._position

    def of_workflow(self, args: Sequence[Any]) -> Span:
        """The run's own span."""
        here, info = self.position, workflow.info()
        return Span(
            trace_id=here.trace_id,
            span_id=here.span_id,
            parent_id=here.parent_id,
            kind=SpanKind.WORKFLOW,
            name=f"workflow:{info.workflow_type}",
            start_ns=nanoseconds(info.workflow_start_time),
            run_id=info.run_id,
            tenant=here.tenant,
            attributes=here.attributes,
            metadata={**here.metadata, "attempt": info.attempt},
            input=self._capture_input(args),
        )

    def of_signal(self, name: str, args: Sequence[Any], sender: TraceContext) -> Span:
        """The span of the next signal of the run."""
        self._signals += 1
        return self._of_message("signal", name, self._signals, args, sender)

    def of_update(
        self, name: str, update_id: str, args: Sequence[Any], sender: TraceContext
    ) -> Span:
        """The span of an update."""
        return self._of_message("update", name, update_id, args, sender)

    def result(self, value: object) -> Captured | None:
        """A picture of a result."""
        return capture(value, max_bytes=self._limits.max_bytes) if self._limits.output else None

    def emit(self, span: Span, outcome: Outcome) -> None:
        """Send a span that has ended now, unless it was sent when this happened first."""
        if workflow.unsafe.is_replaying_history_events():
            return
        record = SpanRecord(span=span, outcome=outcome, end_ns=workflow.time_ns())
        cast("Any", workflow).extern_functions()[EMIT](record)

    def for_activity(self) -> TraceContext:
        """What an activity of this run is told; it knows the workflow's ID itself."""
        here = self.position
        attributes = here.attributes
        if attributes.session_id == fitting(workflow.info().workflow_id):
            attributes = replace(attributes, session_id=None)
        return TraceContext(trace_id=here.trace_id, span_id=here.span_id, attributes=attributes)

    def for_child(self) -> TraceContext:
        """What a child is told; it knows the ID of the root workflow, its session, itself."""
        here = self.position
        return TraceContext(
            trace_id=here.trace_id, span_id=here.span_id, attributes=here.carried.attributes
        )

    def for_message(self) -> TraceContext:
        """What the receiver of a signal is told."""
        return TraceContext(trace_id=self.position.trace_id, span_id=self.position.span_id)

    def for_next_run(self) -> TraceContext | None:
        """What the run that continues this one is told: the same as this one was."""
        carried = self.position.carried
        return carried if carried.trace_id or carried.attributes else None

    def _of_message(
        self,
        kind: Literal["signal", "update"],
        name: str,
        key: int | str,
        args: Sequence[Any],
        sender: TraceContext,
    ) -> Span:
        here, run_id = self.position, workflow.info().run_id
        metadata = dict(here.metadata)
        if kind == "update":
            metadata["update_id"] = key
        if sender.trace_id and sender.span_id:
            metadata |= {"sender_trace_id": sender.trace_id, "sender_span_id": sender.span_id}
        return Span(
            trace_id=here.trace_id,
            span_id=message_span_id(run_id, kind, key),
            parent_id=here.span_id,
            kind=SpanKind(kind),
            name=f"{kind}:{name}",
            start_ns=workflow.time_ns(),
            run_id=run_id,
            tenant=here.tenant,
            attributes=here.attributes,
            metadata=metadata,
            input=self._capture_input(args),
        )

    def _capture_input(self, args: Sequence[Any]) -> Captured | None:
        if not self._limits.input:
            return None
        return capture(list(args), max_bytes=self._limits.max_bytes)


def _position() -> Position:
    info = workflow.info()
    carried = read_header(info.headers)
    first_run_id = info.first_execution_run_id or info.run_id
    is_first = info.run_id == first_run_id
    tenant = current_tenant()
    root_id = info.root.workflow_id if info.root else info.workflow_id
    trace_id = carried.trace_id or trace_id_of(info.namespace, info.workflow_id, first_run_id)
    return Position(
        trace_id=trace_id,
        span_id=workflow_span_id(info.run_id),
        parent_id=carried.span_id if is_first else workflow_span_id(first_run_id),
        carried=carried,
        attributes=complete(carried.attributes, tenant=tenant, workflow_id=root_id),
        tenant=tenant,
        metadata={
            "workflow_type": info.workflow_type,
            "workflow_id": info.workflow_id,
            "run_id": info.run_id,
            "namespace": info.namespace,
            "task_queue": info.task_queue,
        },
    )
