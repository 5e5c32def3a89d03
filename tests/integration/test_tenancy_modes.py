"""Modes: `optional` for adopting Orkestra, `off` for connections and traces only."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from temporalio.client import (
    Client,
    WorkflowContinuedAsNewError,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import OrkestraConfig, OrkestraPlugin, TenancySettings
from tests.support.waiting import PATIENTLY
from tests.workflows.adopted import Account
from tests.workflows.everything import WORKFLOWS, Child, Mailbox
from tests.workflows.placed import where


def plugin(mode, tenant=None, workflow_ids="scoped") -> OrkestraPlugin:
    tenancy = TenancySettings(mode=mode, workflow_ids=workflow_ids)
    return OrkestraPlugin(OrkestraConfig(tenancy=tenancy), tenant=tenant)


@pytest.fixture
async def optional(raw_client, fresh) -> AsyncIterator[Client]:
    client = Client(raw_client.service_client, plugins=[plugin("optional")])
    async with Worker(client, task_queue=fresh.task_queue(), workflows=WORKFLOWS):
        yield client


async def test_optional_accepts_work_without_a_tenant(optional, raw_client, fresh):
    for client in (optional, raw_client):
        result = await client.execute_workflow(
            Child.run, False, id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        assert (result["tenant"], result["id"]) == (None, fresh.workflow_id())


async def test_optional_accepts_messages_without_a_tenant_but_not_from_another_tenant(
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


async def test_the_next_run_of_a_chain_can_be_given_to_a_tenant(raw_client, fresh):
    """Endless chains of a system that adopts Orkestra keep their unscoped IDs."""
    service, workflow_id = raw_client.service_client, fresh.workflow_id()
    unbound = Client(service, plugins=[plugin("optional", None, "global")])
    tenants = Client(service, plugins=[plugin("optional", fresh.tenant(), "global")])
    own = tenants.get_workflow_handle_for(Account.run, workflow_id)
    async with Worker(unbound, task_queue=fresh.task_queue(), workflows=[Account]):
        old = await raw_client.start_workflow(
            Account.run, id=workflow_id, task_queue=fresh.task_queue()
        )
        with pytest.raises(RPCError, match="not found"):
            await own.query(Account.tenant)
        await old.signal(Account.go_on, fresh.tenant())
        with pytest.raises(WorkflowContinuedAsNewError):
            await old.result(follow_runs=False)
        assert await own.query(Account.tenant) == fresh.tenant()
        await own.signal(Account.go_on, "")
        assert await own.result() == fresh.tenant()


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


async def test_optional_counts_what_has_no_tenant(dev_server, raw_client, fresh):
    """Counts that no longer grow show that mode `required` would refuse nothing."""
    buffer = MetricBuffer(10_000)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer))
    client = await Client.connect(dev_server.address, plugins=[plugin("optional")], runtime=runtime)
    tenants = Client(client.service_client, plugins=[plugin("optional", fresh.tenant())])
    queue = fresh.task_queue()
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[where]):
        own = await tenants.start_workflow(Mailbox.run, id="box", task_queue=queue)
        await own.query(Mailbox.count)
        counted = untenanted(buffer)
        old = raw_client.get_workflow_handle(own.id)
        await old.signal(Mailbox.note, "from before")
        await old.query(Mailbox.count)
        await own.signal(Mailbox.finish)
        await own.result()
        await client.execute_workflow(Child.run, False, id=fresh.workflow_id(), task_queue=queue)
        await raw_client.execute_activity(
            where,
            id=fresh.workflow_id(),
            task_queue=queue,
            start_to_close_timeout=PATIENTLY,
        )
    assert counted == {}
    assert untenanted(buffer) == {
        "signal": 1,
        "query": 1,
        "workflow": 1,
        "activity": 1,
        "start_workflow_execution": 1,
        "get_workflow_execution_history": 1,
    }


def untenanted(buffer: MetricBuffer) -> Counter[str]:
    """Counts since the last call, by kind or RPC."""
    counted = Counter[str]()
    for update in buffer.retrieve_updates():
        if update.metric.name.startswith("orkestra_untenanted"):
            kind = update.attributes.get("kind") or update.attributes["rpc"]
            counted[str(kind)] += int(update.value)
    return counted
