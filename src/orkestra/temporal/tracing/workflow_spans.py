"""The workflow's side, inside the sandbox: pure, and silent under replay.

What one workflow run knows of its trace. Pure: no clock, no randomness, no I/O.
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
    complete,
    outcome_of_attempt,
    outcome_of_handler,
    outcome_of_run,
    read_header,
    write_header,
    write_nexus_header,
)
from orkestra.temporal.tracing.outbox import current_run
from orkestra.tenancy import current_tenant
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    SpanRecord,
    TraceAttributes,
    TraceContext,
    capture,
    nanoseconds,
)

EMIT: Final = "__orkestra_emit_span"
"""The extern function that takes spans out of the sandbox."""

EMIT_QUERY: Final = "__orkestra_emit_query"
"""The extern function that takes the spans of queries, which change nothing."""

NOW: Final = "__orkestra_now"
"""The extern function that says what the worker's clock says, in nanoseconds."""


_MICROSECOND: Final = 1000


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
        self._for_activity: TraceContext | None = None
        self._signals = 0
        self._operations = 0

    @property
    def spans(self) -> RunSpans:
        """Where the run stands, and what its spans look like."""
        if self._spans is None:
            self._spans = RunSpans(_facts(self.options.ui_url))
            if (outbox := current_run()) is not None:
                outbox.know(self._spans)
        return self._spans

    def of_workflow(self, args: Sequence[Any]) -> Span:
        """The run's own span."""
        return self.spans.workflow(input=self.argument(args))

    def of_signal(self, input: HandleSignalInput) -> Callable[[], Span]:
        """The span of the signal that is being handled, to be made where it is sent."""
        self._signals += 1
        event_id, outbox = signal_event_id(), current_run()
        delivered_ns = outbox.delivered_ns(event_id) if outbox and event_id else None
        key, start_ns = event_id or f"#{self._signals}", delivered_ns or workflow.time_ns()
        taken = self._live_argument(input.args)
        return lambda: self.spans.signal(
            input.signal,
            key=key,
            start_ns=start_ns,
            sender=read_header(input.headers),
            input=taken or self.argument(input.args),
        )

    def of_update(self, input: HandleUpdateInput) -> Callable[[], Span]:
        """The span of an update, to be made where it is sent."""
        start_ns, taken = workflow.time_ns(), self._live_argument(input.args)
        return lambda: self.spans.update(
            input.update,
            update_id=input.id,
            start_ns=start_ns,
            sender=read_header(input.headers),
            input=taken or self.argument(input.args),
        )

    def wall_ns(self) -> int:
        """The worker's clock: a query is at no time of the workflow's."""
        return int(_extern(NOW)())

    def emit_query(self, input: HandleQueryInput, start_ns: int, outcome: Outcome) -> None:
        """Send the span of a query that has been answered."""
        span = self.spans.query(
            input.query, query_id=input.id, start_ns=start_ns, input=self.argument(input.args)
        )
        record = SpanRecord(span=span, outcome=outcome, end_ns=self.wall_ns())
        _extern(EMIT_QUERY)(record)

    def argument(self, args: Sequence[Any]) -> Captured | None:
        """A picture of arguments."""
        limits = self.options.limits
        return capture(list(args), max_bytes=limits.max_bytes) if limits.input else None

    def result(self, value: object) -> Captured | None:
        """A picture of a result."""
        limits = self.options.limits
        return capture(value, max_bytes=limits.max_bytes) if limits.output else None

    def emit(self, span: Callable[[], Span], outcome: Callable[[], Outcome | None]) -> None:
        """Send a span that has ended now, unless it was sent when this happened first.

        Args:
            span: Makes the span.
            outcome: Makes the outcome; None where it has not ended after all.
        """
        if workflow.unsafe.is_replaying_history_events():
            return
        if (ended := outcome()) is not None:
            _extern(EMIT)(SpanRecord(span=span(), outcome=ended, end_ns=workflow.time_ns()))

    def emit_result(self, span: Callable[[], Span], result: object, **metadata: str) -> None:
        """Send a span that has ended well."""
        self.emit(span, lambda: Outcome(output=self.result(result), metadata=metadata))

    def for_activity(self) -> TraceContext:
        """What an activity of this run is told; it knows the workflow's ID itself."""
        if self._for_activity is None:
            facts = self.spans.facts
            attributes = facts.attributes
            unsaid = complete(TraceAttributes(), tenant=facts.tenant, workflow_id=facts.workflow_id)
            if attributes.session_id == unsaid.session_id:
                attributes = TraceAttributes(
                    user_id=attributes.user_id, tags=attributes.tags, metadata=attributes.metadata
                )
            self._for_activity = self.spans.below(attributes)
        return self._for_activity

    def for_local_activity(self) -> TraceContext:
        """What a local activity of this run is told: when its span begins, too.

        One that is done again is another execution. It begins when that is, if the task that
        scheduled it is replayed; and a microsecond later, if the task itself is done again because
        a worker without a cache has interrupted it.
        """
        outbox = current_run()
        interruptions = outbox.interruptions if outbox is not None else 0
        start_ns = workflow.time_ns() + interruptions * _MICROSECOND
        if workflow.unsafe.is_replaying_history_events():
            start_ns = max(start_ns, self.wall_ns())
        return replace(self.for_activity(), start_ns=start_ns)

    def for_child(self) -> TraceContext:
        """What a child is told; it knows the ID of the root workflow, its session, itself."""
        return replace(self.spans.context, attributes=self.spans.facts.carried.attributes)

    def for_operation(self) -> TraceContext:
        """What a Nexus operation that is called now is told: its own span."""
        self._operations += 1
        here = self.spans.operation_context(self._operations)
        return replace(here, attributes=self.spans.facts.attributes)

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


def _extern(name: str) -> Callable[..., Any]:
    functions: Mapping[str, Callable[..., Any]] = cast("Any", workflow).extern_functions()
    return functions[name]


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


class TracingWorkflowInbound(WorkflowInboundInterceptor):
    """Makes the spans of a run, its signals and its updates; subclassed once for each sink."""

    options: ClassVar[RunOptions]

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """See base class."""
        self._run = RunTrace(self.options)
        super().init(TracingWorkflowOutbound(outbound, self._run))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """See base class."""
        span = self._run.of_workflow(input.args)
        try:
            result = await super().execute_workflow(input)
        except BaseException as error:
            self._run.emit(lambda: span, partial(outcome_of_run, error))
            raise
        self._run.emit_result(lambda: span, result, status="completed")
        return result

    async def handle_signal(self, input: HandleSignalInput) -> None:
        """See base class."""
        span = self._run.of_signal(input)
        try:
            await super().handle_signal(input)
        except BaseException as error:
            self._run.emit(span, partial(outcome_of_handler, error))
            raise
        self._run.emit(span, Outcome)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """See base class."""
        span = self._run.of_update(input)
        try:
            result = await super().handle_update_handler(input)
        except BaseException as error:
            self._run.emit(span, partial(outcome_of_handler, error))
            raise
        self._run.emit_result(span, result)
        return result

    async def handle_query(self, input: HandleQueryInput) -> Any:
        """See base class; the built-in queries have no spans."""
        if not self.options.queries or input.query.startswith("__"):
            return await super().handle_query(input)
        start_ns = self._run.wall_ns()
        try:
            result = await super().handle_query(input)
        except Exception as error:
            self._run.emit_query(input, start_ns, outcome_of_attempt(error))
            raise
        self._run.emit_query(input, start_ns, Outcome(output=self._run.result(result)))
        return result


class TracingWorkflowOutbound(WorkflowOutboundInterceptor):
    """Carries the trace into everything a workflow starts or signals."""

    def __init__(self, next: WorkflowOutboundInterceptor, run: RunTrace) -> None:
        """Carry the trace of the run."""
        super().__init__(next)
        self._run = run

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_next_run())
        super().continue_as_new(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_message())
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_message())
        await super().signal_external_workflow(input)

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_activity())
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_local_activity())
        return super().start_local_activity(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        """See base class."""
        input.headers = write_header(input.headers, self._run.for_child())
        return await super().start_child_workflow(input)

    async def start_nexus_operation(
        self, input: StartNexusOperationInput[Any, Any]
    ) -> workflow.NexusOperationHandle[Any]:
        """See base class."""
        input.headers = write_nexus_header(input.headers, self._run.for_operation())
        return await super().start_nexus_operation(input)
