"""Guarded clients on the real server, and one worker that serves them all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from orkestra import OrkestraPlugin
from orkestra.config import OrkestraConfig, TenancySettings
from orkestra.directory import Placements
from orkestra.temporal.guard import GuardedServiceClient, GuardPolicy
from orkestra.tenancy import AllTenants, current_tenant
from tests.support.names import Fresh
from tests.support.waiting import PATIENTLY
from tests.workflows.everything import Child, Mailbox

SOON = PATIENTLY


@activity.defn
async def whose() -> str | None:
    return current_tenant()


@activity.defn
async def completed_elsewhere() -> str:
    activity.raise_complete_async()


class GuardDesk:
    """Two tenants, clients for them, and a queue that one worker serves."""

    def __init__(self, raw: Client, fresh: Fresh) -> None:
        self.raw = raw
        self.fresh = fresh
        self.acme = fresh.tenant("acme")
        self.beta = fresh.tenant("beta")
        self.queue = fresh.task_queue()
        self.unbound = self.client(None)

    def client(
        self,
        tenant: str | AllTenants | None,
        *,
        settings: TenancySettings | None = None,
        placements: Placements | None = None,
        **options: Any,
    ) -> Client:
        settings = settings or TenancySettings()
        guarded = GuardedServiceClient(
            self.raw.service_client,
            tenant=tenant,
            namespace="default",
            policy=GuardPolicy(settings=settings, placements=placements or Placements()),
        )
        plugin = OrkestraPlugin(OrkestraConfig(tenancy=settings), tenant=tenant)
        return Client(guarded, plugins=[plugin], **options)

    @asynccontextmanager
    async def worker(self, *activities: Any, **options: Any) -> AsyncIterator[None]:
        async with Worker(
            self.unbound,
            task_queue=self.queue,
            workflows=[Child, Mailbox],
            activities=[whose, completed_elsewhere, *activities],
            **options,
        ):
            yield

    async def mailbox(self, tenant: str, name: str = "mailbox") -> WorkflowHandle[Any, Any]:
        return await self.client(tenant).start_workflow(
            Mailbox.run, id=self.fresh.workflow_id(name), task_queue=self.queue
        )

    async def open_activity(self, tenant: str, name: str = "open") -> Any:
        """A standalone activity that waits to be completed from elsewhere."""
        return await self.client(tenant).start_activity(
            completed_elsewhere,
            id=self.fresh.workflow_id(name),
            task_queue=self.queue,
            start_to_close_timeout=SOON,
        )
