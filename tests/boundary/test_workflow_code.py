"""A hostile tenant's workflow code: what it can change of itself, and whom it can name."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, Worker

from orkestra import OrkestraConfig, OrkestraPlugin, TenancySettings
from tests.names import Fresh
from tests.workflows.everything import Mailbox
from tests.workflows.forging import WORKFLOWS, Forges, Remembers, Signals, innocent

GLOBAL = OrkestraConfig(tenancy=TenancySettings(workflow_ids="global"))


class Yard:
    def __init__(self, raw: Client, fresh: Fresh, config: OrkestraConfig) -> None:
        self.raw, self.fresh, self.config = raw, fresh, config
        self.queue = fresh.task_queue()
        self.acme, self.beta = fresh.tenant("acme"), fresh.tenant("beta")

    def client(self, tenant: str | None) -> Client:
        plugin = OrkestraPlugin(self.config, tenant=tenant)
        return Client(self.raw.service_client, plugins=[plugin])


@pytest.fixture(params=[OrkestraConfig(), GLOBAL], ids=["scoped", "global"])
async def yard(request, raw_client, fresh) -> AsyncIterator[Yard]:
    made = Yard(raw_client, fresh, request.param)
    async with Worker(
        made.client(None),
        task_queue=made.queue,
        workflows=[*WORKFLOWS, Mailbox],
        activities=[innocent],
    ):
        yield made


@pytest.mark.parametrize("yard", [GLOBAL], indirect=True, ids=["global"])
@pytest.mark.parametrize("kind", ["activity", "local activity", "child", "continue", "signal"])
async def test_b10_code_that_changes_its_own_info_sends_nothing_in_anothers_name(yard, kind):
    """The constructor runs before any interceptor; with global IDs no prefix contradicts it."""
    victim = await yard.client(yard.beta).start_workflow(
        Mailbox.run, id=yard.fresh.workflow_id("victim"), task_queue=yard.queue
    )
    target = victim.id if kind == "signal" else yard.fresh.workflow_id("child")
    forger = await yard.client(yard.acme).start_workflow(
        Forges.run,
        args=[kind, yard.beta, target],
        id=yard.fresh.workflow_id("forger"),
        task_queue=yard.queue,
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await forger.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "TenantMismatch"
    history = await forger.fetch_history()
    assert {event.WhichOneof("attributes") for event in history.events} == {
        "workflow_execution_started_event_attributes",
        "workflow_task_scheduled_event_attributes",
        "workflow_task_started_event_attributes",
        "workflow_task_completed_event_attributes",
        "workflow_execution_failed_event_attributes",
    }
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()
    with ThreadPoolExecutor(1) as thread:
        replayer = Replayer(
            workflows=WORKFLOWS,
            plugins=[OrkestraPlugin(yard.config)],
            workflow_task_executor=thread,
        )
        await replayer.replay_workflow(history)


async def test_b09_a_signal_from_a_workflow_tells_nothing_of_anothers_workflow(yard):
    victim = await yard.client(yard.beta).start_workflow(
        Mailbox.run, id=yard.fresh.workflow_id("victim"), task_queue=yard.queue
    )
    acme = yard.client(yard.acme)
    told = [
        await acme.execute_workflow(
            Signals.run, target, id=yard.fresh.workflow_id(f"s{number}"), task_queue=yard.queue
        )
        for number, target in enumerate((victim.id, yard.fresh.workflow_id("nobodys")))
    ]
    assert "not found" in told[0]
    assert told[0] == told[1]
    own = await acme.start_workflow(
        Mailbox.run, id=yard.fresh.workflow_id("own"), task_queue=yard.queue
    )
    answer = await acme.execute_workflow(
        Signals.run, own.id, id=yard.fresh.workflow_id("s"), task_queue=yard.queue
    )
    assert answer == "signalled"
    assert await own.result() == []
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


async def test_b22_the_modules_of_ones_own_workflows_are_not_shared(yard):
    for tenant in (yard.acme, yard.beta):
        seen = await yard.client(tenant).execute_workflow(
            Remembers.run, tenant, id=yard.fresh.workflow_id(tenant), task_queue=yard.queue
        )
        assert seen == [tenant]
