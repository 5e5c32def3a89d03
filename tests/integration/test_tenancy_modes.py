"""Modes: `optional` for moving a running system over, `off` for connections and traces only."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.worker import Worker

from orkestra import OrkestraConfig, OrkestraPlugin, TenancySettings
from tests.workflows.everything import WORKFLOWS, Child, Mailbox


def plugin(mode, tenant=None) -> OrkestraPlugin:
    return OrkestraPlugin(OrkestraConfig(tenancy=TenancySettings(mode=mode)), tenant=tenant)


@pytest.fixture
async def optional(raw_client, fresh) -> AsyncIterator[Client]:
    client = Client(raw_client.service_client, plugins=[plugin("optional")])
    async with Worker(client, task_queue=fresh.task_queue(), workflows=WORKFLOWS):
        yield client


async def test_optional_lets_work_without_a_tenant_through(optional, raw_client, fresh):
    for client in (optional, raw_client):
        result = await client.execute_workflow(
            Child.run, False, id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        assert (result["tenant"], result["id"]) == (None, fresh.workflow_id())


async def test_optional_takes_messages_without_a_tenant_but_none_of_another(
    optional, raw_client, fresh
):
    acme = Client(raw_client.service_client, plugins=[plugin("optional", fresh.tenant())])
    handle = await acme.start_workflow(Mailbox.run, id="box", task_queue=fresh.task_queue())
    old = raw_client.get_workflow_handle(handle.id)
    await old.signal(Mailbox.note, "from before")
    assert (await old.query(Mailbox.count))[0] == 1
    await handle.signal(Mailbox.finish)
    assert await handle.result() == [("signal from before", fresh.tenant())]


async def test_optional_still_refuses_contradictions(optional, raw_client, fresh):
    beta = Client(raw_client.service_client, plugins=[plugin("off")])
    with pytest.raises(WorkflowFailureError) as caught:
        await beta.execute_workflow(
            Child.run,
            False,
            id=f"acme:{fresh.suffix}",
            task_queue=fresh.task_queue(),
            memo={"tenantId": "beta"},
        )
    assert "TenantMismatch" in repr(caught.value.cause)


async def test_off_adds_nothing_to_a_workflow(raw_client, fresh):
    client = Client(raw_client.service_client, plugins=[plugin("off")])
    async with Worker(client, task_queue=fresh.task_queue(), workflows=WORKFLOWS):
        handle = await client.start_workflow(
            Mailbox.run, id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        with pytest.raises(WorkflowQueryFailedError, match="not found"):
            await handle.query("__anything")
        await handle.signal(Mailbox.finish)
        await handle.result()
    started = (await handle.fetch_history()).events[0].workflow_execution_started_event_attributes
    assert handle.id == fresh.workflow_id()
    assert not started.header.fields
    assert not started.search_attributes.indexed_fields
    assert not started.priority.fairness_key
