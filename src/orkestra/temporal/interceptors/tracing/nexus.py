"""The Nexus handler's side: what it starts stands below the operation in the caller's trace."""

from contextvars import ContextVar
from typing import Any

import nexusrpc.handler
from temporalio.worker import ExecuteNexusOperationStartInput, NexusOperationInboundInterceptor

from orkestra.temporal.interceptors.tracing.header import read_nexus_header
from orkestra.tracing import Caller, inherited_attributes

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
