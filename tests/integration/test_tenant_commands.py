"""Commands without an interceptor: checked by the run hook, with and without a cache."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from orkestra import OrkestraPlugin
from tests.support.replaying import replaying
from tests.workflows.hostile import (
    WORKFLOWS,
    CancelsAnother,
    KnowsItsTenantFromTheStart,
    RenamesItself,
    RenamesItselfUnsandboxed,
    Waits,
)


@pytest.fixture(params=["cached", "replayed", "unsandboxed"])
async def queue(request, raw_client, fresh) -> AsyncIterator[str]:
    client = Client(raw_client.service_client, plugins=[OrkestraPlugin()])
    options = {
        "cached": {},
        "replayed": {"max_cached_workflows": 0},
        "unsandboxed": {"workflow_runner": UnsandboxedWorkflowRunner()},
    }[request.param]
    async with Worker(client, task_queue=fresh.task_queue(), workflows=WORKFLOWS, **options):
        yield fresh.task_queue()


def bound(raw: Client, tenant: str) -> Client:
    return Client(raw.service_client, plugins=[OrkestraPlugin(tenant=tenant)])


async def test_an_external_cancel_reaches_a_workflow_of_the_same_tenant(raw_client, fresh, queue):
    acme = bound(raw_client, fresh.tenant())
    target = await acme.start_workflow(Waits.run, id="target", task_queue=queue)
    await acme.execute_workflow(CancelsAnother.run, "target", id="c", task_queue=queue)
    with pytest.raises(WorkflowFailureError) as caught:
        await target.result()
    assert isinstance(caught.value.cause, CancelledError)


async def test_an_external_cancel_does_not_reach_another_tenants_workflow(raw_client, fresh, queue):
    acme, beta = bound(raw_client, fresh.tenant()), bound(raw_client, fresh.tenant("beta"))
    victim = await beta.start_workflow(Waits.run, id="victim", task_queue=queue)
    with pytest.raises(WorkflowFailureError) as caught:
        await acme.execute_workflow(CancelsAnother.run, victim.id, id="c", task_queue=queue)
    assert "not found" in str(caught.value.cause)
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


@pytest.mark.parametrize("workflow", [RenamesItself, RenamesItselfUnsandboxed])
@pytest.mark.parametrize(
    ("where", "tenant"),
    [("memo", "beta"), ("memo", None), ("attribute", "beta"), ("attribute", None)],
)
async def test_b10_writing_the_reserved_memo_or_attribute_fails_the_workflow(
    raw_client, fresh, queue, workflow, where, tenant
):
    acme = bound(raw_client, fresh.tenant())
    handle = await acme.start_workflow(workflow.run, args=[where, tenant], id="r", task_queue=queue)
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("TenantMismatch", True)
    attributes = (await handle.describe()).typed_search_attributes
    assert [pair.value for pair in attributes if pair.key.name == "tenantId"] == [fresh.tenant()]


async def test_writing_the_same_tenant_again_is_allowed(raw_client, fresh, queue):
    acme = bound(raw_client, fresh.tenant())
    for where in ("memo", "attribute"):
        result = await acme.execute_workflow(
            RenamesItself.run, args=[where, fresh.tenant()], id=where, task_queue=queue
        )
        assert result == "renamed"


async def test_a_workflows_constructor_knows_the_tenant(raw_client, fresh, queue):
    acme = bound(raw_client, fresh.tenant())
    tenant = await acme.execute_workflow(KnowsItsTenantFromTheStart.run, id="k", task_queue=queue)
    assert tenant == fresh.tenant()


async def test_a_refused_command_replays_as_it_ran(raw_client, fresh, queue):
    acme = bound(raw_client, fresh.tenant())
    handle = await acme.start_workflow(
        RenamesItself.run, args=["memo", "beta"], id="r", task_queue=queue
    )
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    with replaying(workflows=WORKFLOWS, plugins=[OrkestraPlugin()]) as replayer:
        await replayer.replay_workflow(await handle.fetch_history())
