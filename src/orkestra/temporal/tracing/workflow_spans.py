"""Interceptors of workflow code, and the trace of one run.

This code runs inside the sandbox and on the workflow's thread, so it is pure: no clock, randomness,
I/O or locks. Replays must not send spans again, and what a replay would not send is not made.
Spans leave the sandbox through functions that the host provides, by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, NoReturn, cast

from temporalio import workflow
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    SignalChildWorkflowInput,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    StartNexusOperationInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from orkestra.temporal._sdk import signal_event_id
from orkestra.temporal.tracing.headers import (
    read_header,
    with_tenant_prefix,
    write_header,
    write_nexus_header,
)
from orkestra.temporal.tracing.outbox import current_run
from orkestra.temporal.tracing.outcomes import attempt_outcome, handler_outcome, run_outcome
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    FinishedSpan,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    TraceAttributes,
    TraceContext,
    capture,
    nanoseconds,
)

EMIT: Final = "__orkestra_emit_span"
EMIT_QUERY: Final = "__orkestra_emit_query"
NOW: Final = "__orkestra_now"
"""Names of the host's functions: receive a span, receive a query's span, tell the worker's time in
nanoseconds."""

_MICROSECOND_NS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Tracing options of workflow code; `ui_url` is the address of Temporal's web interface."""

    limits: CaptureLimits
    ui_url: str | None = None
    queries: bool = False


class TracingWorkflowInbound(WorkflowInboundInterceptor):
    """Makes the spans of a run, its signals and its updates; each sink has its own subclass."""

    options: ClassVar[RunOptions]

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """See base class."""
        self._run = RunTrace(self.options)
        super().init(TracingWorkflowOutbound(outbound, self._run))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """See base class."""
        span = self._run.workflow_span(input.args)
        try:
            result = await super().execute_workflow(input)
        except BaseException as error:
            # Also the SDK's signals, such as ContinueAsNewError and the end by eviction.
            self._run.emit(lambda: span, partial(run_outcome, error))
            raise
        self._run.emit_result(lambda: span, result, status="completed")
        return result

    async def handle_signal(self, input: HandleSignalInput) -> None:
        """See base class."""
        span = self._run.signal_span(input)
        try:
            await super().handle_signal(input)
        except BaseException as error:
            self._run.emit(span, partial(handler_outcome, error))
            raise
        self._run.emit(span, Outcome)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """See base class."""
        span = self._run.update_span(input)
        try:
            result = await super().handle_update_handler(input)
        except BaseException as error:
            self._run.emit(span, partial(handler_outcome, error))
            raise
        self._run.emit_result(span, result)
        return result

    async def handle_query(self, input: HandleQueryInput) -> Any:
        """See base class; the SDK's own queries have no spans."""
        if not self.options.queries or input.query.startswith("__"):
            return await super().handle_query(input)
        start_ns = self._run.wall_ns()
        try:
            result = await super().handle_query(input)
        except Exception as error:
            # A query that fails does not fail the workflow, so a query has an attempt's outcome.
            self._run.emit_query(input, start_ns, attempt_outcome(error))
            raise
        self._run.emit_query(input, start_ns, Outcome(output=self._run.result(result)))
        return result


class TracingWorkflowOutbound(WorkflowOutboundInterceptor):
    """Sends the trace context with everything that a workflow starts or signals."""

    def __init__(self, next: WorkflowOutboundInterceptor, run: "RunTrace") -> None:
        super().__init__(next)
        self._run = run

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        """See base class; the next run gets the context that this run got."""
        # The server does not pass headers on to the next run (T1).
        carried = self._run.spans.facts.carried
        is_empty = not carried.trace_id and not carried.attributes
        input.headers = write_header(input.headers, None if is_empty else carried)
        super().continue_as_new(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.spans.context)
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.spans.context)
        await super().signal_external_workflow(input)

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.activity_context())
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.local_activity_context())
        return super().start_local_activity(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        """See base class; the child computes its session from the root workflow's ID itself."""
        # A child does not inherit headers (T2).
        spans = self._run.spans
        input.headers = write_header(input.headers, spans.below(spans.facts.carried.attributes))
        return await super().start_child_workflow(input)

    async def start_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """See base class."""
        input.headers = write_nexus_header(input.headers, self._run.operation_context())
        return await super().start_nexus_operation(input)


class RunTrace:
    """Trace of one run, whose facts are read on first use: `init` cannot ask for `info()` (T52)."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self._spans: RunSpans | None = None
        self._activity_context: TraceContext | None = None
        self._signals = 0
        self._operations = 0

    @property
    def spans(self) -> RunSpans:
        """Span factory of the run."""
        # With signal-with-start, the signal's handler comes before `execute_workflow` (T17).
        if self._spans is None:
            self._spans = RunSpans(_facts(self.options.ui_url))
            if (outbox := current_run()) is not None:
                outbox.set_spans(self._spans)
        return self._spans

    def workflow_span(self, args: Sequence[Any]) -> Span:
        """Begin the run's own span."""
        return self.spans.workflow(input=self._args(args))

    def signal_span(self, input: HandleSignalInput) -> Callable[[], Span]:
        """Begin the span of a signal, to be made only where it is sent."""
        self._signals += 1
        event_id, outbox = signal_event_id(), current_run()
        # A handler may start later than its signal was delivered, for instance where it is
        # registered later: the outbox knows the time that a history gives. Without the event's ID,
        # signals are counted, and a backfill does not recognize their spans.
        delivered_ns = outbox.pop_delivery_time(event_id) if outbox and event_id else None
        key, start_ns = event_id or f"#{self._signals}", delivered_ns or workflow.time_ns()
        # Now, because the handler may change them before the span is made.
        args = self._args_unless_replaying(input.args)
        return lambda: self.spans.signal(
            input.signal,
            key=key,
            start_ns=start_ns,
            sender=read_header(input.headers),
            input=args or self._args(input.args),
        )

    def update_span(self, input: HandleUpdateInput) -> Callable[[], Span]:
        """Begin the span of an update, to be made only where it is sent."""
        # Now, because the handler may change them.
        start_ns, args = workflow.time_ns(), self._args_unless_replaying(input.args)
        return lambda: self.spans.update(
            input.update,
            update_id=input.id,
            start_ns=start_ns,
            sender=read_header(input.headers),
            input=args or self._args(input.args),
        )

    def emit(self, span: Callable[[], Span], outcome: Callable[[], Outcome | None]) -> None:
        """Send a span that ends now, unless this is a replay or there is no outcome yet."""
        # Not `is_replaying()`, which counts live queries and validators as replay, too (T53).
        if workflow.unsafe.is_replaying_history_events():
            return
        if (ended := outcome()) is not None:
            _host_function(EMIT)(
                FinishedSpan(span=span(), outcome=ended, end_ns=workflow.time_ns())
            )

    def emit_result(self, span: Callable[[], Span], result: object, **metadata: str) -> None:
        """Send a span that ends now with a result, unless this is a replay."""
        self.emit(span, lambda: Outcome(output=self.result(result), metadata=metadata))

    def emit_query(self, input: HandleQueryInput, start_ns: int, outcome: Outcome) -> None:
        """Send the span of a query that has been answered."""
        span = self.spans.query(
            input.query, query_id=input.id, start_ns=start_ns, input=self._args(input.args)
        )
        finished = FinishedSpan(span=span, outcome=outcome, end_ns=self.wall_ns())
        _host_function(EMIT_QUERY)(finished)

    def wall_ns(self) -> int:
        """Tell the worker's time, for what has no time of the workflow's, such as a query."""
        return int(_host_function(NOW)())

    def result(self, value: object) -> Captured | None:
        """Capture a result."""
        limits = self.options.limits
        return capture(value, max_bytes=limits.max_bytes) if limits.output else None

    def activity_context(self) -> TraceContext:
        """Make the context for activities.

        They know the workflow's ID themselves, so a session that is only that ID is left out: the
        header is in the history of every activity.
        """
        if self._activity_context is None:
            facts = self.spans.facts
            attributes = facts.attributes
            default = with_tenant_prefix(
                TraceAttributes(), tenant=facts.tenant, workflow_id=facts.workflow_id
            )
            if attributes.session_id == default.session_id:
                attributes = replace(attributes, session_id=None)
            self._activity_context = self.spans.below(attributes)
        return self._activity_context

    def local_activity_context(self) -> TraceContext:
        """Make the context of a local activity, with the start of its span.

        A local activity that runs again is another execution and needs a span of its own, so it
        needs another start time. If the workflow task that scheduled it is replayed, that is the
        worker's time. If the task itself is done again, because a worker without a cache evicted
        the run, the workflow's clock has not moved: a microsecond is added for each interruption.
        """
        outbox = current_run()
        interruptions = outbox.interruptions if outbox is not None else 0
        start_ns = workflow.time_ns() + interruptions * _MICROSECOND_NS
        if workflow.unsafe.is_replaying_history_events():
            start_ns = max(start_ns, self.wall_ns())
        return replace(self.activity_context(), start_ns=start_ns)

    def operation_context(self) -> TraceContext:
        """Make the context of the next Nexus operation: its own span."""
        self._operations += 1
        context = self.spans.operation_context(self._operations)
        return replace(context, attributes=self.spans.facts.attributes)

    def _args(self, args: Sequence[Any]) -> Captured | None:
        limits = self.options.limits
        return capture(list(args), max_bytes=limits.max_bytes) if limits.input else None

    def _args_unless_replaying(self, args: Sequence[Any]) -> Captured | None:
        """Capture arguments before a handler can change them; a replay hardly ever needs them."""
        return None if workflow.unsafe.is_replaying_history_events() else self._args(args)


def _host_function(name: str) -> Callable[..., Any]:
    # By name, because objects of the host cannot be imported into the sandbox.
    functions: Mapping[str, Callable[..., Any]] = cast("Any", workflow).extern_functions()
    return functions[name]


def _facts(ui_url: str | None) -> RunFacts:
    info = workflow.info()
    carried = read_header(info.headers)
    tenant = current_tenant()
    # One session for the whole tree, unless the caller has set another.
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
        attributes=with_tenant_prefix(carried.attributes, tenant=tenant, workflow_id=root_id),
        ui_url=ui_url,
    )
