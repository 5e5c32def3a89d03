"""A hostile tenant's workflow code: attempts to change its info and to name other tenants."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import OrkestraConfig, OrkestraPlugin, TenancySettings
from tests.support.forged_headers import Forging
from tests.support.names import Fresh
from tests.support.replaying import replaying
from tests.workflows.everything import Mailbox
from tests.workflows.forging import (
    WORKFLOWS,
    Answers,
    AsksTheServer,
    Forges,
    Injects,
    Reaches,
    Remembers,
    Signals,
    innocent,
)

GLOBAL = OrkestraConfig(tenancy=TenancySettings(workflow_ids="global"))


class TwoTenants:
    def __init__(self, raw: Client, fresh: Fresh, config: OrkestraConfig) -> None:
        self.raw, self.fresh, self.config = raw, fresh, config
        self.queue = fresh.task_queue()
        self.acme, self.beta = fresh.tenant("acme"), fresh.tenant("beta")

    def client(self, tenant: str | None) -> Client:
        plugin = OrkestraPlugin(self.config, tenant=tenant)
        return Client(self.raw.service_client, plugins=[plugin])


@pytest.fixture(params=[OrkestraConfig(), GLOBAL], ids=["scoped", "global"])
async def pair(request, raw_client, fresh) -> AsyncIterator[TwoTenants]:
    made = TwoTenants(raw_client, fresh, request.param)
    async with Worker(
        made.client(None),
        task_queue=made.queue,
        workflows=[*WORKFLOWS, Mailbox],
        activities=[innocent],
    ):
        yield made


@pytest.mark.parametrize("pair", [GLOBAL], indirect=True, ids=["global"])
@pytest.mark.parametrize("kind", ["activity", "local activity", "child", "continue", "signal"])
async def test_b10_code_that_changes_its_own_info_cannot_act_for_another_tenant(pair, kind):
    """The constructor runs before any interceptor; with global IDs no prefix contradicts it."""
    victim = await pair.client(pair.beta).start_workflow(
        Mailbox.run, id=pair.fresh.workflow_id("victim"), task_queue=pair.queue
    )
    target = victim.id if kind == "signal" else pair.fresh.workflow_id("child")
    forger = await pair.client(pair.acme).start_workflow(
        Forges.run,
        args=[kind, pair.beta, target],
        id=pair.fresh.workflow_id("forger"),
        task_queue=pair.queue,
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
    with replaying(workflows=WORKFLOWS, plugins=[OrkestraPlugin(pair.config)]) as replayer:
        await replayer.replay_workflow(history)


@pytest.mark.parametrize(
    ("kind", "whose"),
    [("activity", "beta"), ("child", "beta"), ("signal", "beta"), ("child", "acme")],
)
async def test_b10_commands_that_bypass_the_interceptors_are_verified(pair, kind, whose):
    """Code adds them to the workflow's event loop, with a foreign header or without attribute."""
    victim = await pair.client(pair.beta).start_workflow(
        Mailbox.run, id=pair.fresh.workflow_id("victim"), task_queue=pair.queue
    )
    handle = await pair.client(pair.acme).start_workflow(
        Injects.run,
        args=[kind, getattr(pair, whose), victim.id],
        id=pair.fresh.workflow_id("injects"),
        task_queue=pair.queue,
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "TenantMismatch"
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


async def test_b09_a_signal_from_a_workflow_does_not_reveal_another_tenants_workflow(pair):
    victim = await pair.client(pair.beta).start_workflow(
        Mailbox.run, id=pair.fresh.workflow_id("victim"), task_queue=pair.queue
    )
    acme = pair.client(pair.acme)
    told = [
        await acme.execute_workflow(
            Signals.run,
            target,
            id=pair.fresh.workflow_id(f"s{number}"),
            task_queue=pair.queue,
        )
        for number, target in enumerate((victim.id, pair.fresh.workflow_id("nobodys")))
    ]
    assert "not found" in told[0]
    assert told[0] == told[1]
    own = await acme.start_workflow(
        Mailbox.run, id=pair.fresh.workflow_id("own"), task_queue=pair.queue
    )
    answer = await acme.execute_workflow(
        Signals.run, own.id, id=pair.fresh.workflow_id("s"), task_queue=pair.queue
    )
    assert answer == "signalled"
    assert await own.result() == []
    assert (await victim.describe()).status is WorkflowExecutionStatus.RUNNING
    await victim.terminate()


@pytest.mark.parametrize("pair", [OrkestraConfig()], indirect=True, ids=["scoped"])
@pytest.mark.parametrize("kind", ["cancel", "signal", "child", "terminate"])
async def test_b09_a_run_without_the_prefix_cannot_reach_other_tenants(pair, kind):
    """An SDK without Orkestra starts it, with the tenant's header and any ID."""
    victim = await pair.client(pair.beta).start_workflow(
        Mailbox.run, id="victim", task_queue=pair.queue
    )
    bare = Client(pair.raw.service_client, interceptors=[Forging(pair.acme)])
    reaching = await bare.start_workflow(
        Reaches.run,
        args=[kind, victim.id],
        id=pair.fresh.workflow_id("plain"),
        task_queue=pair.queue,
    )
    if kind in {"cancel", "signal"}:
        assert "not found" in await reaching.result()
    else:
        with pytest.raises(WorkflowFailureError) as caught:
            await reaching.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "TenantMismatch"
    description = await victim.describe()
    assert description.status is WorkflowExecutionStatus.RUNNING
    assert description.run_id == victim.first_execution_run_id
    assert not description.raw_description.workflow_extended_info.cancel_requested
    await victim.terminate()


@pytest.mark.parametrize("pair", [OrkestraConfig()], indirect=True, ids=["scoped"])
async def test_b10_an_id_that_claims_to_be_scoped_is_verified(pair):
    victim = f"{pair.beta}:never"
    handle = await pair.client(pair.acme).start_workflow(
        Reaches.run, args=["disguised", victim], id="d", task_queue=pair.queue
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "TenantMismatch"
    with pytest.raises(RPCError, match="not found"):
        await pair.raw.get_workflow_handle(victim).describe()


async def test_b09_a_workflow_cannot_use_the_servers_signal_with_start(pair):
    """A system endpoint called as a normal one bypasses the interceptor for system operations."""
    handle = await pair.client(pair.acme).start_workflow(
        AsksTheServer.run, "x", id=pair.fresh.workflow_id("asks"), task_queue=pair.queue
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "TenantMismatch"
    assert "'__temporal_system' is the server's own" in caught.value.cause.message


@pytest.mark.parametrize("pair", [GLOBAL], indirect=True, ids=["global"])
async def test_global_ids_stay_unscoped_even_below_an_id_that_looks_scoped(pair):
    """`acme:job` may be an ID that existed before Orkestra."""
    handle = await pair.client(pair.acme).start_workflow(
        Reaches.run,
        args=["child", pair.fresh.workflow_id("line")],
        id=f"{pair.acme}:job",
        task_queue=pair.queue,
    )
    assert await handle.result() == pair.fresh.workflow_id("line")


async def test_b22_first_party_modules_are_not_shared_between_tenants(pair):
    for tenant in (pair.acme, pair.beta):
        seen = await pair.client(tenant).execute_workflow(
            Remembers.run, tenant, id=pair.fresh.workflow_id(tenant), task_queue=pair.queue
        )
        assert seen == [tenant]


ASKED = ("__anything", "__stack_trace_", "__temporal", "__Stack_Trace", "__stack_trace")


@pytest.mark.parametrize("exempt", [("__stack_trace",), ()], ids=["one", "none"])
async def test_b25_queries_are_exempt_by_their_exact_name_only(raw_client, fresh, exempt):
    """A dynamic handler answers to any name; these queries have no tenant."""
    config = OrkestraConfig(tenancy=TenancySettings(built_in_queries=exempt))
    pair = TwoTenants(raw_client, fresh, config)
    async with Worker(pair.client(None), task_queue=pair.queue, workflows=WORKFLOWS):
        own = await pair.client(pair.acme).start_workflow(
            Answers.run, id="a", task_queue=pair.queue
        )
        anybodys = raw_client.get_workflow_handle(own.id)
        for name in ASKED:
            assert name == "__stack_trace" or "secret" in await own.query(name)
            if name in exempt:
                assert (await anybodys.query(name)).startswith("Stack for")
                continue
            with pytest.raises(WorkflowQueryFailedError, match="refused: it has no tenant"):
                await anybodys.query(name)
        await own.terminate()
