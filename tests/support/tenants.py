"""Tenants of every placement, a directory that can change or fail, and callers that forge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import (
    Client,
    Interceptor,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import Interceptor as WorkerInterceptor
from temporalio.worker import (
    Worker,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from orkestra import OrkestraConfig, OrkestraPlugin, TemporalSettings, WorkerSettings
from orkestra.directory import (
    CachedTenantDirectory,
    CallableTenantDirectory,
    TenantRecord,
    TenantStatus,
)
from tests.support.forged_headers import Forging, tenant_header
from tests.support.names import Fresh
from tests.support.waiting import PATIENCE
from tests.workflows.placed import ACTIVITIES, WORKFLOWS

RECENTLY = timedelta(milliseconds=1)
"""Lifetime of the directory's answers: tests change it all the time."""


class PlacedTenants:
    """Tenants of every placement, a directory that can change or fail, and their clients."""

    def __init__(self, address: str, raw: Client, fresh: Fresh) -> None:
        self.raw = raw
        self.fresh = fresh
        self.config = OrkestraConfig(
            temporal=TemporalSettings(address=address),
            worker=WorkerSettings(graceful_shutdown_timeout=timedelta()),
        )
        self.queue = fresh.task_queue("orders")
        self.shared = fresh.tenant("shared")
        self.own = fresh.tenant("own")
        self.own_queue = fresh.task_queue("own")
        self.apart = fresh.tenant("apart")
        self.late = fresh.tenant("late")
        self.records = {
            record.tenant: record
            for record in (
                TenantRecord(self.shared),
                TenantRecord(self.own, task_queues={self.queue: self.own_queue}),
                TenantRecord(self.apart, namespace="second"),
                TenantRecord(self.late, status=TenantStatus.SUSPENDED),
            )
        }
        self.questions = 0
        self.error: Exception | None = None
        self.directory = CachedTenantDirectory(
            CallableTenantDirectory(self.find, dedicated=self.dedicated),
            ttl=RECENTLY,
            stale_for=timedelta(),
        )

    async def find(self, tenant: str) -> TenantRecord | None:
        self.questions += 1
        if self.error is not None:
            raise self.error
        return self.records.get(tenant)

    async def dedicated(self) -> list[TenantRecord]:
        return [record for record in self.records.values() if record.is_dedicated]

    def client(self, tenant: Any, *interceptors: Interceptor, namespace: str = "default") -> Client:
        plugin = OrkestraPlugin(self.config, tenant=tenant, directory=self.directory)
        return Client(
            self.raw.service_client,
            namespace=namespace,
            plugins=[plugin],
            interceptors=interceptors,
        )

    def forger(self, tenant: str, *, namespace: str = "default") -> Client:
        """A client without Orkestra that writes the tenant's header."""
        return Client(self.raw.service_client, namespace=namespace, interceptors=[Forging(tenant)])

    def id(self, name: str = "w") -> str:
        return self.fresh.workflow_id(name)

    @asynccontextmanager
    async def worker(
        self, queue: str | None = None, *, namespace: str = "default", **options: Any
    ) -> AsyncIterator[Worker]:
        async with Worker(
            self.client(None, namespace=namespace),
            task_queue=queue or self.queue,
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            **options,
        ) as worker:
            yield worker


class ForgingWorker(WorkerInterceptor):
    """Stamps the activities of a worker without Orkestra."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def workflow_interceptor_class(self, input: Any) -> type[WorkflowInboundInterceptor]:
        headers = tenant_header(self.tenant)

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: Any) -> Any:
                input.headers = headers
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


async def failure(handle: WorkflowHandle[Any, Any]) -> tuple[str | None, bool]:
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(handle.result(), PATIENCE)
    cause = caught.value.cause
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ApplicationError), repr(cause)
    return cause.type, cause.non_retryable
