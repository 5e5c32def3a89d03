"""The tracing interceptor, for clients and workers alike.

The client's side: a header only where workers cannot compute what it would say.

The activity's side: a live span around each attempt, so that what it observes nests below.

The Nexus handler's side: what it starts stands below the operation in the caller's trace.

What became of the attempt before this one.

An attempt whose worker was lost, or whose heartbeat stayed away, sends no span that says so. Only
the server knows, and an attempt is not told: it has to ask.
"""

import asyncio
import inspect
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Protocol, cast

import nexusrpc.handler
from temporalio import activity, client, worker
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import (
    ActivityHandle,
    Client,
    CreateScheduleInput,
    Interceptor,
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

from orkestra.errors import OrkestraError
from orkestra.temporal._sdk import client_of_activity
from orkestra.temporal.tracing.headers import (
    Headers,
    complete,
    outcome_of_attempt,
    read_header,
    read_nexus_header,
    write_header,
)
from orkestra.temporal.tracing.outbox import Outbox, RunOutbox
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
    LiveSpan,
    MetadataValue,
    Outcome,
    Span,
    SpanRecord,
    TraceAttributes,
    TraceContext,
    TraceSink,
    activity_span,
    capture,
    current_trace_attributes,
    inherited_attributes,
    nanoseconds,
)

SinkFor = Callable[[str | None], TraceSink]
"""Chooses where a tenant's spans go."""


class _Call(Protocol):
    headers: Headers


class TracingClientInterceptor(Interceptor):
    """The client's side alone, with nothing of what workers share."""

    __slots__ = ("_sink_for", "_tenant")

    def __init__(self, sink_for: SinkFor, tenant: str) -> None:
        """Carry for the tenant.

        Args:
            sink_for: Chooses where a tenant's spans go.
            tenant: The tenant that the client is bound to.
        """
        self._sink_for = sink_for
        self._tenant = tenant

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self._sink_for, self._tenant)


class TracingClientOutbound(OutboundInterceptor):
    """Carries the caller's observation and the trace's attributes into what it starts."""

    def __init__(self, next: OutboundInterceptor, sink_for: SinkFor, tenant: str | None) -> None:
        """Carry for the tenant; None means the tenant of the running code."""
        super().__init__(next)
        self._sink_for = sink_for
        self._tenant = tenant

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        """See base class; signal-with-start comes here too, with one header for both."""
        await self._stamp_start(input, input.id)
        return await super().start_workflow(input)

    async def start_update_with_start_workflow(
        self, input: StartWorkflowUpdateWithStartInput
    ) -> WorkflowUpdateHandle[Any]:
        """See base class."""
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
            made = updater(current)
            update = await made if inspect.isawaitable(made) else made
            if update is not None:
                _stamp_schedule(update.schedule)
            return update

        input.updater = stamped
        await super().update_schedule(input)

    async def _stamp_start(self, call: _Call, server_id: str) -> None:
        caller = await self._caller(server_id)
        attributes = current_trace_attributes()
        if caller is not None and caller.is_joined:
            context = TraceContext(
                trace_id=caller.trace_id, span_id=caller.span_id, attributes=attributes
            )
        else:
            context = TraceContext(attributes=attributes.merged(_link(caller)))
        is_empty = context.trace_id is None and not context.attributes
        call.headers = write_header(call.headers, None if is_empty else context)

    async def _stamp_message(self, call: _Call, server_id: str) -> None:
        """Say where a signal or update comes from; its span belongs to the workflow's trace."""
        caller = await self._caller(server_id)
        context = None
        if caller is not None:
            context = TraceContext(trace_id=caller.trace_id, span_id=caller.span_id)
        call.headers = write_header(call.headers, context)

    async def _caller(self, server_id: str) -> Caller | None:
        if (operation := current_operation()) is not None:
            return operation
        tenant = self._tenant or current_tenant() or owner_of(server_id)
        sink = self._sink_for(tenant)
        try:
            await sink.project(tenant)  # which the directory may have to be asked for
        except OrkestraError:
            return None  # the call is refused for the same reason
        return sink.caller(tenant)


def _link(caller: Caller | None) -> TraceAttributes:
    """Where a trace came from that does not continue its caller's."""
    if caller is None:
        return TraceAttributes()
    found = {"caller_trace_id": caller.trace_id, "caller_span_id": caller.span_id}
    return TraceAttributes(metadata=found)


def _stamp_schedule(schedule: Schedule) -> None:
    """Each run of a schedule is a trace of its own: only the attributes are carried.

    An action that was read from the server brings its header with it, which stays as it is where
    no attributes are set now.
    """
    action = schedule.action
    attributes = current_trace_attributes()
    if isinstance(action, ScheduleActionStartWorkflow) and attributes:
        action.headers = write_header(action.headers or {}, TraceContext(attributes=attributes))


_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOptions:
    """Which spans are made of workflows.

    Attributes:
        ui_url: Where Temporal's web interface is; workflows' spans link to their pages there.
        queries: Whether queries have spans.
        timer_threshold: Timers that took as long have spans; None means that none have.
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
        sink: TraceSink,
        *,
        tenant: str | None = None,
        identity: str | None = None,
        options: TracingOptions | None = None,
    ) -> None:
        """Send all spans to the sink.

        Args:
            sink: Where spans go; whoever made it closes it.
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
        self._workflow_class = type(
            "TracingWorkflowInbound", (TracingWorkflowInbound,), {"options": run}
        )

    def for_tenant(self, tenant: str) -> TracingClientInterceptor:
        """The same for a client that is bound to the tenant, and can make no worker."""
        return TracingClientInterceptor(self._sink_for, tenant)

    def for_replayer(self) -> "TracingInterceptor":
        """The same interceptor for a replayer, which sends nothing.

        The end of the history of a workflow that still runs is no replay to the SDK.
        """
        silent = TracingInterceptor(self._sink, identity=self._identity, options=self._options)
        silent._is_silent = True
        return silent

    def _sink_for(self, tenant: str | None) -> TraceSink:
        """Where a tenant's spans go: everything that is sent asks here."""
        return self._sink

    def run_hook(self, details: worker.WorkflowInstanceDetails) -> RunOutbox:
        """What holds a run's spans until the server has taken its tasks, for the runner."""
        return self._outbox.hook(details)

    @property
    def held(self) -> int:
        """How many spans wait for the server to take what made them."""
        return self._outbox.held

    def settle(self, task_queue: str) -> None:
        """Send what the runs of a worker hold which has ended."""
        self._outbox.settle(task_queue)

    def emit(self, record: SpanRecord) -> None:
        """Take a span from workflow code; the only way out of the sandbox. Never raises."""
        if not self._is_silent:
            self._outbox.take(record)

    def _send(self, record: SpanRecord) -> None:
        try:
            self._sink_for(record.span.tenant).emit(record)
        except Exception:
            _logger.exception("A span was lost")

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        """See base class."""
        return TracingClientOutbound(next, self._sink_for, self._tenant)

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        """See base class."""
        return TracingActivityInbound(next, self._sink_for, self._identity)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        functions = cast("Any", input).unsafe_extern_functions
        functions[EMIT], functions[NOW] = self.emit, time.time_ns
        functions[EMIT_QUERY] = _nothing if self._is_silent else self._send
        return self._workflow_class

    def intercept_nexus_operation(
        self, next: worker.NexusOperationInboundInterceptor
    ) -> worker.NexusOperationInboundInterceptor:
        """See base class."""
        return TracingNexusInbound(next)


def _nothing(record: SpanRecord) -> None:
    """A replayer's span."""


_MILLISECOND: Final = timedelta(milliseconds=1)


class TracingActivityInbound(ActivityInboundInterceptor):
    """Runs each attempt of an activity inside its span."""

    def __init__(
        self,
        next: ActivityInboundInterceptor,
        sink_for: Callable[[str | None], TraceSink],
        identity: str,
    ) -> None:
        """Send to the tenant's sink, as the worker of this identity."""
        super().__init__(next)
        self._sink_for = sink_for
        self._identity = identity

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        sink = self._sink_for(current_tenant())
        live = await self._entered(input, sink)
        if live is None:
            return await super().execute_activity(input)
        if not isinstance(input.executor, ThreadPoolExecutor | None):
            input.executor = live.through(input.executor)
        previous = Fate(self)
        try:
            result = await super().execute_activity(input)
        except BaseException as error:
            live.end(_with(_outcome(error), await previous.known()))
            raise
        limits = sink.limits
        output = capture(result, max_bytes=limits.max_bytes) if limits.output else None
        outcome = Outcome(output=output, metadata={"status": "completed"})
        live.end(_with(outcome, await previous.known()))
        return result

    async def _entered(self, input: ExecuteActivityInput, sink: TraceSink) -> LiveSpan | None:
        try:
            return await sink.enter(self._span(input, sink.limits))
        except Exception:
            _logger.exception("An activity runs untraced")
            return None

    def _span(self, input: ExecuteActivityInput, limits: CaptureLimits) -> Span:
        info = activity.info()
        carried = read_header(input.headers)
        tenant = current_tenant()
        owner_id = info.workflow_id or info.activity_id
        run_id = info.workflow_run_id or info.activity_run_id or ""
        facts = AttemptFacts(
            namespace=info.namespace,
            workflow_id=info.workflow_id,
            workflow_type=info.workflow_type,
            run_id=run_id,
            activity_id=info.activity_id,
            activity_type=info.activity_type,
            task_queue=info.task_queue,
            attempt=info.attempt,
            start_ns=(info.is_local and carried.start_ns) or nanoseconds(info.started_time),
            is_local=info.is_local,
            tenant=tenant,
            carried=carried,
            attributes=complete(carried.attributes, tenant=tenant, workflow_id=owner_id),
        )
        taken = capture(list(input.args), max_bytes=limits.max_bytes) if limits.input else None
        latency = (info.started_time - info.current_attempt_scheduled_time) / _MILLISECOND
        of_worker: dict[str, MetadataValue] = {
            "worker": self._identity,
            "schedule_to_start_ms": round(latency, 3),
        }
        return activity_span(facts, input=taken, of_worker=of_worker)


def _outcome(error: BaseException) -> Outcome:
    """How the attempt ended, with the reasons where it was cancelled."""
    outcome = outcome_of_attempt(error)
    details = activity.cancellation_details()
    if details is None or not is_cancelled_exception(error):
        return outcome
    reasons = [name for name, holds in vars(details).items() if holds]
    return _with(outcome, {"cancelled_by": ", ".join(reasons)})


def _with(outcome: Outcome, metadata: Mapping[str, str]) -> Outcome:
    return replace(outcome, metadata={**outcome.metadata, **metadata}) if metadata else outcome


_operation: ContextVar[Caller | None] = ContextVar("orkestra_nexus_operation", default=None)


def current_operation() -> Caller | None:
    """The span of the Nexus operation whose handler the running code is."""
    return _operation.get()


class TracingNexusInbound(NexusOperationInboundInterceptor):
    """Tells the client's side which operation is being handled."""

    async def execute_nexus_operation_start(
        self, input: ExecuteNexusOperationStartInput
    ) -> (
        nexusrpc.handler.StartOperationResultSync[Any] | nexusrpc.handler.StartOperationResultAsync
    ):
        """See base class."""
        carried = read_nexus_header(input.ctx.headers)
        if carried.trace_id is None or carried.span_id is None:
            return await super().execute_nexus_operation_start(input)
        token = _operation.set(Caller(carried.trace_id, carried.span_id))
        try:
            with inherited_attributes(carried.attributes):
                return await super().execute_nexus_operation_start(input)
        finally:
            _operation.reset(token)


_PATIENCE_SECONDS: Final = 0.25

_TIMEOUTS: Final = {
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "timed out: no heartbeat",
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "timed out: start to close",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "timed out: schedule to start",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "timed out: schedule to close",
}


class Fate:
    """How the attempt before this one ended, as soon as the server has said it."""

    def __init__(self, inbound: ActivityInboundInterceptor) -> None:
        """Ask, while the attempt runs, if there was one before.

        Args:
            inbound: An interceptor of the attempt.
        """
        self._asking: asyncio.Task[str | None] | None = None
        info = activity.info()
        if info.attempt == 1 or info.is_local or info.workflow_id is None:
            return
        if (client := client_of_activity(inbound)) is not None:
            self._asking = asyncio.create_task(_ask(client, info))

    async def known(self) -> dict[str, str]:
        """Metadata that says it; waits a quarter of a second at most."""
        asking = self._asking
        if asking is None:
            return {}
        try:
            await asyncio.wait({asking}, timeout=_PATIENCE_SECONDS)
        except asyncio.CancelledError:
            _logger.debug("Cancelled while asking what became of the attempt before")
        if not asking.done():
            asking.cancel()
            return {"previous_attempt": "unknown"}
        return {"previous_attempt": asking.result() or "unknown"}


async def _ask(client: Client, info: activity.Info) -> str | None:
    ids = {"workflow_id": info.workflow_id or "", "run_id": info.workflow_run_id or ""}
    execution = WorkflowExecution(**ids)
    request = DescribeWorkflowExecutionRequest(namespace=info.namespace, execution=execution)
    try:
        described = await client.workflow_service.describe_workflow_execution(request)
    except Exception as error:  # noqa: BLE001 - the attempt does not depend on it
        _logger.debug("What became of the attempt before is not known: %r", error)
        return None
    pending = (p for p in described.pending_activities if p.activity_id == info.activity_id)
    found = next(pending, None)
    return (
        _said(found.last_failure) if found is not None and found.HasField("last_failure") else None
    )


def _said(failure: Failure) -> str:
    if failure.HasField("timeout_failure_info"):
        return _TIMEOUTS.get(failure.timeout_failure_info.timeout_type, "timed out")
    if failure.HasField("canceled_failure_info"):
        return "cancelled"
    return "failed"
