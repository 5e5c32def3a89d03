"""The client's side: a header only where workers cannot compute what it would say."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from temporalio.client import (
    ActivityHandle,
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

from orkestra.errors import OrkestraError
from orkestra.temporal.interceptors.tracing.header import Headers, write_header
from orkestra.temporal.interceptors.tracing.nexus import current_operation
from orkestra.tenancy import current_tenant, owner_of
from orkestra.tracing import (
    Caller,
    TraceAttributes,
    TraceContext,
    TraceSink,
    current_trace_attributes,
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
