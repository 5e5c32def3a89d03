"""`TracingInterceptor`: one trace for each workflow execution, whichever processes work on it.

Ids are computed from what the server has recorded, so most of a trace needs no help: a client only
sends a header where workers cannot know what it says (the caller's span, the trace's attributes),
and workflow code makes its spans in `workflow_spans`, inside the sandbox. Activities are the
exception. An attempt's span is active while its code runs, so that what the code observes nests
below it.
"""

import inspect
import logging
import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import nexusrpc.handler
from temporalio import activity, client, worker
from temporalio.client import (
    ActivityHandle,
    CreateScheduleInput,
    OutboundInterceptor,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    ScheduleUpdate,
    ScheduleUpdateInput,
    SignalWorkflowInput,
    StartActivityInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    StartWorkflowUpdateWithStartInput,
    UpdateScheduleInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.exceptions import is_cancelled_exception
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteNexusOperationStartInput,
    NexusOperationInboundInterceptor,
)

from orkestra.temporal.tracing.headers import (
    Headers,
    read_header,
    read_nexus_header,
    with_tenant_prefix,
    write_header,
)
from orkestra.temporal.tracing.outbox import Outbox, RunOutbox
from orkestra.temporal.tracing.outcomes import attempt_outcome
from orkestra.temporal.tracing.workflow_spans import (
    EMIT,
    EMIT_QUERY,
    NOW,
    RunOptions,
    TracingWorkflowInbound,
)
from orkestra.tenancy import current_tenant, owner_of
from orkestra.tracing import (
    AttemptFacts,
    Caller,
    CaptureLimits,
    FinishedSpan,
    MetadataValue,
    Outcome,
    Span,
    TraceAttributes,
    TraceContext,
    activity_span,
    capture,
    current_trace_attributes,
    inherited_attributes,
    nanoseconds,
)

if TYPE_CHECKING:
    # Tracing is optional: `import orkestra` must not import its Langfuse side.
    from orkestra.langfuse import LangfuseProjects, LangfuseSink
    from orkestra.langfuse.langfuse_sink import ActiveAttempt

_logger: Final = logging.getLogger(__name__)
_MILLISECOND: Final = timedelta(milliseconds=1)

_nexus_caller: ContextVar[Caller | None] = ContextVar("orkestra_nexus_operation", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOptions:
    """Options of workflow spans.

    Attributes:
        ui_url: Address of Temporal's web interface; workflow spans link to their pages there.
        queries: Whether queries have spans.
        timer_threshold: Timers of at least this duration have spans; None means no timer has.
    """

    ui_url: str | None = None
    queries: bool = False
    timer_threshold: timedelta | None = timedelta(seconds=10)


class TracingInterceptor(client.Interceptor, worker.Interceptor):
    """Makes one trace of each workflow execution.

    Give it to the client; workers take it from there. Tenants are read from `current_tenant()`, so
    on a worker it comes after the interceptor that sets them.

    Example:
        ```python
        sink = LangfuseSink(settings)
        client = await Client.connect("localhost:7233", interceptors=[TracingInterceptor(sink)])
        ```
    """

    def __init__(
        self,
        sink: "LangfuseSink | LangfuseProjects",
        *,
        tenant: str | None = None,
        identity: str | None = None,
        options: TracingOptions | None = None,
    ) -> None:
        """Send all spans to the sink.

        Args:
            sink: Receives the spans; whoever made it closes it.
            tenant: The tenant that the client is bound to; None means `current_tenant()`.
            identity: Name of this worker on the server; None means `pid@host`, the SDK's default.
            options: Which spans are made of workflows; None means the defaults.
        """
        self._sink = sink
        self._tenant = tenant
        self._identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        self._options = options or TracingOptions()
        self._outbox = Outbox(
            self._send, limits=sink.limits, timer_threshold=self._options.timer_threshold
        )
        self._is_silent = False
        run = RunOptions(
            limits=sink.limits, ui_url=self._options.ui_url, queries=self._options.queries
        )
        # The SDK makes the instances, so the options travel in a subclass.
        self._workflow_class = type(
            "TracingWorkflowInbound", (TracingWorkflowInbound,), {"options": run}
        )

    def for_tenant(self, tenant: str) -> "TracingClientInterceptor":
        """Make the interceptor of a client that is bound to the tenant and makes no workers."""
        return TracingClientInterceptor(self._sink, tenant)

    def for_replayer(self) -> "TracingInterceptor":
        """Make the interceptor of a replayer, which sends nothing.

        Asking the SDK whether it replays is not enough: at the end of the history of a
        workflow that still runs, it says no.
        """
        silent = TracingInterceptor(self._sink, identity=self._identity, options=self._options)
        silent._is_silent = True
        return silent

    @property
    def held(self) -> int:
        """Number of spans that wait until the server has committed their workflow task."""
        return self._outbox.held

    def run_hook(self, details: worker.WorkflowInstanceDetails) -> RunOutbox:
        """Make the hook of a run, for `orkestra.temporal.run_hooks`."""
        return self._outbox.hook(details)

    def flush_queue(self, task_queue: str) -> None:
        """Send the held spans of a worker that has stopped."""
        self._outbox.flush_queue(task_queue)

    def emit(self, span: FinishedSpan) -> None:
        """Receive a span from workflow code; the only way out of the sandbox. Never raises."""
        if not self._is_silent:
            self._outbox.add(span)

    def _emit_query(self, span: FinishedSpan) -> None:
        # A query leaves nothing in the history: no workflow task has to be committed first.
        if not self._is_silent:
            self._send(span)

    def _send(self, span: FinishedSpan) -> None:
        try:
            self._sink.emit(span)
        except Exception:
            _logger.exception("A span was lost")

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self._sink, self._tenant)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return TracingActivityInbound(next, self._sink, self._identity)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        # The sandbox imports modules again: only these functions lead out of it.
        functions = cast("Any", input).unsafe_extern_functions
        functions.update({EMIT: self.emit, EMIT_QUERY: self._emit_query, NOW: time.time_ns})
        return self._workflow_class

    def intercept_nexus_operation(
        self, next: NexusOperationInboundInterceptor
    ) -> NexusOperationInboundInterceptor:
        """See base class."""
        return TracingNexusInbound(next)


# --- Clients -------------------------------------------------------------------------------------


class TracingClientInterceptor(client.Interceptor):
    """The client's half of `TracingInterceptor`, for a client of one tenant."""

    __slots__ = ("_sink", "_tenant")

    def __init__(self, sink: "LangfuseSink | LangfuseProjects", tenant: str) -> None:
        self._sink = sink
        self._tenant = tenant

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self._sink, self._tenant)


class _Call(Protocol):
    headers: Headers


class TracingClientOutbound(OutboundInterceptor):
    """Sends the caller's span and the trace's attributes with what the client starts."""

    def __init__(
        self,
        next: OutboundInterceptor,
        sink: "LangfuseSink | LangfuseProjects",
        tenant: str | None,
    ) -> None:
        super().__init__(next)
        self._sink = sink
        self._tenant = tenant

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        """See base class; signal-with-start comes here too, with one header for both."""
        await self._stamp_start(input, input.id)
        return await super().start_workflow(input)

    async def start_update_with_start_workflow(
        self, input: StartWorkflowUpdateWithStartInput
    ) -> WorkflowUpdateHandle[Any]:
        """See base class."""
        # Neither `start_workflow` nor `start_workflow_update` is called for it (T5).
        start = input.start_workflow_input
        await self._stamp_start(start, start.id)
        await self._stamp_message(input.update_workflow_input, start.id)
        return await super().start_update_with_start_workflow(input)

    async def start_activity(self, input: StartActivityInput) -> ActivityHandle[Any]:
        """See base class."""
        await self._stamp_start(input, input.id)
        return await super().start_activity(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:
        """See base class."""
        await self._stamp_message(input, input.id)
        await super().signal_workflow(input)

    async def start_workflow_update(
        self, input: StartWorkflowUpdateInput
    ) -> WorkflowUpdateHandle[Any]:
        """See base class."""
        await self._stamp_message(input, input.id)
        return await super().start_workflow_update(input)

    async def create_schedule(self, input: CreateScheduleInput) -> ScheduleHandle:
        """See base class."""
        _stamp_schedule(input.schedule)
        return await super().create_schedule(input)

    async def update_schedule(self, input: UpdateScheduleInput) -> None:
        """See base class; the updater may return a new action, which has no header."""
        updater = input.updater

        async def stamped(current: ScheduleUpdateInput) -> ScheduleUpdate | None:
            returned = updater(current)
            update = await returned if inspect.isawaitable(returned) else returned
            if update is not None:
                _stamp_schedule(update.schedule)
            return update

        input.updater = stamped
        await super().update_schedule(input)

    async def _stamp_start(self, call: _Call, execution_id: str) -> None:
        """Continue the caller's trace, or start one that links to it."""
        caller = await self._caller(execution_id)
        attributes = current_trace_attributes()
        if caller is None:
            context = TraceContext(attributes=attributes)
        elif caller.is_joined:
            context = TraceContext(
                trace_id=caller.trace_id, span_id=caller.span_id, attributes=attributes
            )
        else:
            # Only a link, because the trace may be another tenant's (B20).
            link = {"caller_trace_id": caller.trace_id, "caller_span_id": caller.span_id}
            context = TraceContext(attributes=attributes.merged(TraceAttributes(metadata=link)))
        is_empty = context.trace_id is None and not context.attributes
        # An empty context also removes a header that the caller has passed on.
        call.headers = write_header(call.headers, None if is_empty else context)

    async def _stamp_message(self, call: _Call, execution_id: str) -> None:
        """Say who sends a signal or update; its span belongs to the receiver's trace."""
        caller = await self._caller(execution_id)
        context = None
        if caller is not None:
            context = TraceContext(trace_id=caller.trace_id, span_id=caller.span_id)
        call.headers = write_header(call.headers, context)

    async def _caller(self, execution_id: str) -> Caller | None:
        if (operation := _nexus_caller.get()) is not None:
            return operation
        return await self._sink.caller(self._tenant or current_tenant() or owner_of(execution_id))


def _stamp_schedule(schedule: Schedule) -> None:
    """Send the attributes only, because each run of a schedule is a trace of its own.

    An action that was read from the server brings its header with it, which stays as it is where
    no attributes are set now.
    """
    action = schedule.action
    attributes = current_trace_attributes()
    if isinstance(action, ScheduleActionStartWorkflow) and attributes:
        action.headers = write_header(action.headers or {}, TraceContext(attributes=attributes))


# --- Activities ----------------------------------------------------------------------------------


class TracingActivityInbound(ActivityInboundInterceptor):
    """Runs each attempt of an activity inside its span."""

    def __init__(
        self,
        next: ActivityInboundInterceptor,
        sink: "LangfuseSink | LangfuseProjects",
        identity: str,
    ) -> None:
        super().__init__(next)
        self._sink = sink
        self._identity = identity

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        attempt = await self._enter(input)
        if attempt is None:
            return await super().execute_activity(input)
        # Threads get a copy of the context; processes do not (T27).
        if not isinstance(input.executor, ThreadPoolExecutor | None):
            input.executor = attempt.traced_pool(input.executor)
        try:
            result = await super().execute_activity(input)
        # Also cancellation, and the SDK's signal that the activity completes later.
        except BaseException as error:
            attempt.end(_outcome(error))
            raise
        limits = self._sink.limits
        output = capture(result, max_bytes=limits.max_bytes) if limits.output else None
        attempt.end(Outcome(output=output, metadata={"status": "completed"}))
        return result

    async def _enter(self, input: ExecuteActivityInput) -> "ActiveAttempt | None":
        try:
            return await self._sink.enter(self._span(input, self._sink.limits))
        except Exception:
            _logger.exception("An activity runs without a span")
            return None

    def _span(self, input: ExecuteActivityInput, limits: CaptureLimits) -> Span:
        info = activity.info()
        carried = read_header(input.headers)
        tenant = current_tenant()
        facts = AttemptFacts(
            namespace=info.namespace,
            workflow_id=info.workflow_id,
            workflow_type=info.workflow_type,
            # A standalone activity has no workflow (T8).
            run_id=info.workflow_run_id or info.activity_run_id or "",
            activity_id=info.activity_id,
            activity_type=info.activity_type,
            task_queue=info.task_queue,
            attempt=info.attempt,
            # No event has the start of a local activity: its workflow sends it in the header.
            start_ns=(info.is_local and carried.start_ns) or nanoseconds(info.started_time),
            is_local=info.is_local,
            tenant=tenant,
            carried=carried,
            attributes=with_tenant_prefix(
                carried.attributes,
                tenant=tenant,
                workflow_id=info.workflow_id or info.activity_id,
            ),
        )
        args = capture(list(input.args), max_bytes=limits.max_bytes) if limits.input else None
        latency = (info.started_time - info.current_attempt_scheduled_time) / _MILLISECOND
        of_worker: dict[str, MetadataValue] = {
            "worker": self._identity,
            "schedule_to_start_ms": round(latency, 3),
        }
        return activity_span(facts, input=args, of_worker=of_worker)


def _outcome(error: BaseException) -> Outcome:
    """Tell how the attempt ended, with the reasons where it was cancelled."""
    outcome = attempt_outcome(error)
    details = activity.cancellation_details()
    if details is None or not is_cancelled_exception(error):
        return outcome
    reasons = ", ".join(
        name for name, holds in cast("Mapping[str, bool]", vars(details)).items() if holds
    )
    return replace(outcome, metadata={**outcome.metadata, "cancelled_by": reasons})


# --- Nexus operations ----------------------------------------------------------------------------


class TracingNexusInbound(NexusOperationInboundInterceptor):
    """Makes what a handler starts a part of the trace of the operation's caller."""

    async def execute_nexus_operation_start(
        self, input: ExecuteNexusOperationStartInput
    ) -> (
        nexusrpc.handler.StartOperationResultSync[Any] | nexusrpc.handler.StartOperationResultAsync
    ):
        """See base class."""
        carried = read_nexus_header(input.ctx.headers)
        if carried.trace_id is None or carried.span_id is None:
            return await super().execute_nexus_operation_start(input)
        token = _nexus_caller.set(Caller(carried.trace_id, carried.span_id))
        try:
            with inherited_attributes(carried.attributes):
                return await super().execute_nexus_operation_start(input)
        finally:
            _nexus_caller.reset(token)
