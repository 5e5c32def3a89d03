"""Hand-written propagation of one value, like the SDK's sample of context propagation.

It carries and nothing more: nothing is required, compared, refused or scoped.
"""

from contextvars import ContextVar
from typing import Any

from temporalio import client, worker, workflow
from temporalio.api.common.v1 import Payload
from temporalio.converter import default

VALUE: ContextVar[str | None] = ContextVar("value", default=None)
_KEY = "value"
_CONVERTER = default().payload_converter


def _stamp(input: Any) -> None:
    value = VALUE.get()
    if value is not None:
        input.headers = {**input.headers, _KEY: _CONVERTER.to_payload(value)}


def _adopt(headers: Any) -> None:
    payload: Payload | None = headers.get(_KEY)
    if payload is not None:
        VALUE.set(_CONVERTER.from_payload(payload, str))


class Propagation(client.Interceptor, worker.Interceptor):
    """Interceptor for clients and workers."""

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        return _Client(next)

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        return _Activity(next)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        return _Inbound


class _Client(client.OutboundInterceptor):
    async def start_workflow(self, input: client.StartWorkflowInput) -> Any:
        _stamp(input)
        return await super().start_workflow(input)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:
        _stamp(input)
        await super().signal_workflow(input)

    async def query_workflow(self, input: client.QueryWorkflowInput) -> Any:
        _stamp(input)
        return await super().query_workflow(input)

    async def start_workflow_update(self, input: client.StartWorkflowUpdateInput) -> Any:
        _stamp(input)
        return await super().start_workflow_update(input)


class _Activity(worker.ActivityInboundInterceptor):
    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        _adopt(input.headers)
        return await super().execute_activity(input)


class _Inbound(worker.WorkflowInboundInterceptor):
    def init(self, outbound: worker.WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:
        _adopt(input.headers)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: worker.HandleSignalInput) -> None:
        _adopt(input.headers)
        await super().handle_signal(input)

    async def handle_query(self, input: worker.HandleQueryInput) -> Any:
        _adopt(input.headers)
        return await super().handle_query(input)

    async def handle_update_handler(self, input: worker.HandleUpdateInput) -> Any:
        _adopt(input.headers)
        return await super().handle_update_handler(input)


class _Outbound(worker.WorkflowOutboundInterceptor):
    def start_activity(self, input: worker.StartActivityInput) -> workflow.ActivityHandle[Any]:
        _stamp(input)
        return super().start_activity(input)

    async def start_child_workflow(
        self, input: worker.StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        _stamp(input)
        return await super().start_child_workflow(input)
