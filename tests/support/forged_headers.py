"""Callers that write a tenant's header without Orkestra, as any holder of credentials can."""

import json
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import Interceptor, OutboundInterceptor


def tenant_header(tenant: str) -> dict[str, Payload]:
    """Headers with the tenant in plain JSON."""
    data = json.dumps(tenant).encode()
    return {"tenantId": Payload(metadata={"encoding": b"json/plain"}, data=data)}


class Forging(Interceptor):
    """Replaces the headers of every call by one that names the tenant."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _ForgingOutbound(next, self.tenant)


class _ForgingOutbound(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, tenant: str) -> None:
        super().__init__(next)
        self.headers = tenant_header(tenant)

    async def start_workflow(self, input: Any) -> Any:
        input.headers = self.headers
        return await super().start_workflow(input)

    async def start_update_with_start_workflow(self, input: Any) -> Any:
        input.start_workflow_input.headers = self.headers
        input.update_workflow_input.headers = self.headers
        return await super().start_update_with_start_workflow(input)

    async def signal_workflow(self, input: Any) -> None:
        input.headers = self.headers
        await super().signal_workflow(input)

    async def query_workflow(self, input: Any) -> Any:
        input.headers = self.headers
        return await super().query_workflow(input)

    async def start_workflow_update(self, input: Any) -> Any:
        input.headers = self.headers
        return await super().start_workflow_update(input)

    async def start_activity(self, input: Any) -> Any:
        input.headers = self.headers
        return await super().start_activity(input)
