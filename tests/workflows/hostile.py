"""Workflow code that tries to leave its tenant by commands that no interceptor sees."""

import asyncio

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from orkestra import current_tenant


@workflow.defn
class CancelsAnother:
    @workflow.run
    async def run(self, victim: str) -> str:
        await workflow.get_external_workflow_handle(victim).cancel()
        return "cancelled"


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> None:
        await asyncio.Future()


@workflow.defn
class RenamesItself:
    @workflow.run
    async def run(self, where: str, tenant: str | None) -> str:
        if where == "memo":
            workflow.upsert_memo({"tenantId": tenant})
        else:
            key = SearchAttributeKey.for_keyword("tenantId")
            change = key.value_unset() if tenant is None else key.value_set(tenant)
            workflow.upsert_search_attributes([change])
        await asyncio.sleep(0.01)
        return "renamed"


@workflow.defn
class KnowsItsTenantFromTheStart:
    @workflow.init
    def __init__(self) -> None:
        self.tenant = current_tenant()

    @workflow.run
    async def run(self) -> str | None:
        return self.tenant


@workflow.defn(sandboxed=False)
class RenamesItselfUnsandboxed(RenamesItself):
    @workflow.run
    async def run(self, where: str, tenant: str | None) -> str:
        return await super().run(where, tenant)


WORKFLOWS = [
    CancelsAnother,
    KnowsItsTenantFromTheStart,
    RenamesItself,
    RenamesItselfUnsandboxed,
    Waits,
]
