"""A hostile tenant's task tokens, workers and activities on the real server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    Client,
)
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import (
    ForbiddenOperationError,
    TenantMismatchError,
    tenant_scope,
)
from tests.support.guard_attack import refused
from tests.support.guarded_clients import SOON
from tests.workflows.everything import Mailbox


@pytest.mark.parametrize("how", ["complete", "fail", "heartbeat", "report_cancellation"])
async def test_b02_task_tokens_are_refused_although_the_server_accepts_them(attack, fresh, how):
    """Task tokens are unsigned messages; this one names another tenant's activity and is valid."""
    tokens: asyncio.Queue[bytes] = asyncio.Queue()

    @activity.defn
    async def leaking() -> str:
        tokens.put_nowait(activity.info().task_token)
        activity.raise_complete_async()

    queue = fresh.task_queue("leaking")
    async with Worker(attack.desk.unbound, task_queue=queue, activities=[leaking]):
        opened = await attack.beta.start_activity(
            leaking, id="leaking", task_queue=queue, start_to_close_timeout=SOON
        )
        token = await tokens.get()
        for client in (attack.acme, attack.bare):
            handle = client.get_async_activity_handle(task_token=token)
            arguments = [RuntimeError("no")] if how == "fail" else []
            await refused(getattr(handle, how)(*arguments), match="token")
        await attack.desk.raw.get_async_activity_handle(task_token=token).complete("taken")
        assert await opened.result() == "taken"


@pytest.mark.parametrize("how", ["complete", "fail", "heartbeat", "report_cancellation"])
async def test_b02_another_tenants_activity_cannot_be_reached_by_id(attack, how):
    opened = await attack.desk.open_activity(attack.desk.beta)
    arguments = [RuntimeError("no")] if how == "fail" else []

    def handle(client: Client, workflow_id: str | None) -> Any:
        return client.get_async_activity_handle(
            workflow_id=workflow_id, run_id=None, activity_id=opened.id
        )

    await refused(getattr(handle(attack.bare, None), how)(*arguments), match="activity_id")
    await refused(getattr(handle(attack.bare, attack.target.id), how)(*arguments), match="workflow")
    await refused(getattr(handle(attack.bare, ""), how)(*arguments), match="activity_id")
    with pytest.raises(RPCError, match="not found"):
        await getattr(handle(attack.acme, None), how)(*arguments)
    await opened.terminate()


# Workers


async def test_b03_a_bound_client_cannot_make_a_worker(attack):
    for client in (attack.acme, attack.bare):
        with pytest.raises(ForbiddenOperationError):
            Worker(client, task_queue=attack.desk.queue, workflows=[Mailbox])
        with pytest.raises(ForbiddenOperationError, match="worker_service_client"):
            _ = client.service_client.worker_service_client.workflow_service


async def test_b03_a_bound_client_cannot_take_over_a_running_worker(attack, fresh):
    async with Worker(
        attack.desk.unbound, task_queue=fresh.task_queue("w"), activities=[_nothing]
    ) as w:
        with pytest.raises(ForbiddenOperationError):
            w.client = attack.acme


@activity.defn
async def _nothing() -> None: ...


async def test_b08_activity_code_can_act_for_its_own_tenant_only(attack, fresh):
    """The worker's own client serves all tenants, and an activity can ask for it."""
    found: list[str] = []

    @activity.defn
    async def hostile(target: str) -> str | None:
        client = activity.client()
        service = client.service_client
        tries: list[Callable[[], Any]] = [
            lambda: service.worker_service_client,
            lambda: service.inner,
            lambda: service.connection,
            lambda: Worker(client, task_queue="q", activities=[_nothing]),
        ]
        for attempt in tries:
            try:
                attempt()
                found.append("a way behind the gate")
            except ForbiddenOperationError:
                pass
        bare = Client(service)
        for call in (
            bare.get_workflow_handle(target).terminate(),
            bare.get_workflow_handle(target).describe(),
            bare.workflow_service.list_namespaces(api.ListNamespacesRequest()),
        ):
            try:
                await call
                found.append("a call")
            except ForbiddenOperationError:
                pass
        try:
            with tenant_scope(target.partition(":")[0]):
                found.append("a scope")
        except TenantMismatchError:
            pass
        try:
            await client.get_workflow_handle(target).terminate()
            found.append("the target")
        except RPCError:
            pass
        return activity.info().activity_id

    desk = attack.desk
    queue = fresh.task_queue("hostile")
    async with Worker(desk.unbound, task_queue=queue, activities=[hostile]):
        result = await attack.acme.execute_activity(
            hostile, attack.target.id, id="h", task_queue=queue, start_to_close_timeout=SOON
        )
    assert result == f"{desk.acme}:h"
    assert found == []
