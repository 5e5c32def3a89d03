"""The tenant on every kind of call, on the real server, with two tenants at once."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ListNamespacesRequest
from temporalio.client import (
    Client,
    Interceptor,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    ForbiddenOperationError,
    InvalidQueryError,
    OrkestraPlugin,
    TenantMismatchError,
    TenantRequiredError,
    start_workflow,
    tenant_scope,
)
from tests.support.forged_headers import Forging
from tests.support.names import Fresh
from tests.support.waiting import PATIENCE, PATIENTLY, becomes
from tests.workflows.everything import (
    ACTIVITIES,
    WORKFLOWS,
    Child,
    Everything,
    LooksAround,
    Mailbox,
)

TENANT_ID = SearchAttributeKey.for_keyword("tenantId")


class Desk:
    """Clients of two tenants, of none and of the bare SDK, and the queue of one worker."""

    def __init__(self, raw: Client, fresh: Fresh) -> None:
        self.raw = raw
        self.acme = fresh.tenant("acme")
        self.beta = fresh.tenant("beta")
        self.queue = fresh.task_queue()
        self.fresh = fresh
        self.unbound = self.client(None)

    def client(self, tenant: Any, *interceptors: Interceptor) -> Client:
        return Client(
            self.raw.service_client,
            plugins=[OrkestraPlugin(tenant=tenant)],
            interceptors=interceptors,
        )

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[None]:
        with ThreadPoolExecutor(4) as threads:
            async with Worker(
                self.unbound,
                task_queue=self.queue,
                workflows=WORKFLOWS,
                activities=ACTIVITIES,
                activity_executor=threads,
                **options,
            ):
                yield

    async def mailbox(self, tenant: str, name: str = "mailbox") -> WorkflowHandle[Any, Any]:
        return await self.client(tenant).start_workflow(
            Mailbox.run, id=self.fresh.workflow_id(name), task_queue=self.queue
        )


@pytest.fixture
async def desk(raw_client: Client, fresh: Fresh) -> AsyncIterator[Desk]:
    made = Desk(raw_client, fresh)
    async with made.worker():
        yield made


async def test_every_call_of_two_tenants_at_once_sees_its_own_tenant(desk):
    async def run(tenant: str) -> None:
        client = desk.client(tenant)
        child = await client.start_workflow(
            Child.run, True, id=f"poked-{desk.fresh.suffix}", task_queue=desk.queue
        )
        seen = await client.execute_workflow(
            Everything.run,
            args=[2, f"poked-{desk.fresh.suffix}"],
            id=desk.fresh.workflow_id(),
            task_queue=desk.queue,
        )
        assert seen.tenants == dict.fromkeys(
            (
                *("workflow", "seen_by_async_activity", "seen_by_thread"),
                *("seen_by_nested_thread", "local activity", "task"),
            ),
            tenant,
        )
        assert seen.child["tenant"] == seen.child["fairness_key"] == tenant
        assert str(seen.child["id"]).startswith(f"{tenant}:")
        assert seen.urgent == (3, tenant)
        assert (await child.result())["signals"] == [tenant]

    await asyncio.gather(run(desk.acme), run(desk.beta))


async def test_the_server_shows_the_tenant_of_a_workflow_and_its_child(desk):
    handle = await desk.client(desk.acme).start_workflow(
        Everything.run, id="seen", task_queue=desk.queue, memo={"note": "kept"}
    )
    result = await handle.result()
    for workflow_id in (f"{desk.acme}:seen", str(result.child["id"])):
        description = await desk.raw.get_workflow_handle(workflow_id).describe()
        assert description.typed_search_attributes[TENANT_ID] == desk.acme
        assert description.raw_info.priority.fairness_key == desk.acme
    assert await (await desk.raw.get_workflow_handle(handle.id).describe()).memo() == {
        "note": "kept"
    }


async def test_a_call_without_a_tenant_is_refused_before_it_is_sent(desk):
    handle = desk.unbound.get_workflow_handle(desk.fresh.workflow_id())
    calls = [
        desk.unbound.start_workflow(Mailbox.run, id="x", task_queue=desk.queue),
        handle.signal(Mailbox.note, "x"),
        handle.query(Mailbox.count),
        handle.execute_update(Mailbox.add, "x"),
        handle.cancel(),
        handle.terminate(),
        handle.describe(),
        handle.result(),
        desk.unbound.count_workflows(),
    ]
    for call in calls:
        with pytest.raises(TenantRequiredError, match="needs a tenant"):
            await call
    with pytest.raises(RPCError, match="not found"):
        await desk.raw.get_workflow_handle("x").describe()


async def test_a_scope_sets_the_tenant_of_an_unbound_client(desk):
    with tenant_scope(desk.acme):
        handle = await desk.unbound.start_workflow(
            Child.run, False, id="scoped", task_queue=desk.queue
        )
        assert handle.id == f"{desk.acme}:scoped"
        assert (await handle.result())["tenant"] == desk.acme


async def test_start_workflow_takes_the_tenant_as_an_argument(desk):
    handle = await start_workflow(
        desk.unbound,
        Child.run,
        False,
        task_queue=desk.queue,
        tenant=desk.acme,
        memo={"note": "x"},
    )
    assert handle.id.startswith(f"{desk.acme}:")
    assert (await handle.result())["tenant"] == desk.acme


async def test_a_handle_made_in_a_scope_refuses_outside_of_it(desk):
    with tenant_scope(desk.acme):
        handle = await desk.unbound.start_workflow(Mailbox.run, id="lazy", task_queue=desk.queue)
    with pytest.raises(TenantRequiredError):
        await handle.describe()
    with tenant_scope(desk.beta), pytest.raises(RPCError, match="not found"):
        await handle.describe()
    with tenant_scope(desk.acme):
        await handle.terminate()


async def test_untyped_search_attributes_are_checked_and_stamped_too(desk):
    client = desk.client(desk.acme)
    with pytest.warns(DeprecationWarning, match="search"), pytest.raises(TenantMismatchError):
        await client.start_workflow(
            Mailbox.run, id="x", task_queue=desk.queue, search_attributes={"tenantId": [desk.beta]}
        )
    handle = await client.start_workflow(
        Mailbox.run, id="y", task_queue=desk.queue, search_attributes={}
    )
    assert (await handle.describe()).typed_search_attributes[TENANT_ID] == desk.acme
    await handle.terminate()


async def test_a_bound_client_does_not_act_for_another_tenant(desk):
    acme = desk.client(desk.acme)
    with pytest.raises(TenantMismatchError):
        await start_workflow(acme, Child.run, False, task_queue=desk.queue, tenant=desk.beta)
    with tenant_scope(desk.beta), pytest.raises(TenantMismatchError):
        await acme.get_workflow_handle("x").describe()


async def test_contradicting_header_memo_and_attribute_are_refused_before_sending(desk):
    foreign = TypedSearchAttributes([SearchAttributePair(TENANT_ID, desk.beta)])
    attempts: list[tuple[Client, dict[str, Any]]] = [
        (desk.client(desk.acme), {"search_attributes": foreign}),
        (desk.client(desk.acme), {"memo": {"tenantId": desk.beta}}),
        (desk.client(desk.acme, Forging(desk.beta)), {}),
    ]
    for client, options in attempts:
        with pytest.raises(TenantMismatchError, match=desk.beta):
            await client.start_workflow(
                Child.run, False, id="contradiction", task_queue=desk.queue, **options
            )
    with pytest.raises(RPCError, match="not found"):
        await desk.raw.get_workflow_handle(f"{desk.acme}:contradiction").describe()


async def test_another_tenants_workflow_is_reported_as_not_found(desk):
    victim = await desk.mailbox(desk.beta)
    client = desk.client(desk.acme)
    for name in (victim.id, victim.id.partition(":")[2]):
        handle = client.get_workflow_handle(name)
        for attempt in (
            handle.signal(Mailbox.note, "x"),
            handle.query(Mailbox.count),
            handle.execute_update(Mailbox.add, "x"),
            handle.cancel(),
            handle.terminate(),
            handle.describe(),
            handle.result(),
            handle.fetch_history(),
        ):
            with pytest.raises(RPCError, match="not found"):
                await attempt
    await victim.signal(Mailbox.finish)
    assert await victim.result() == []


async def test_signals_of_another_tenant_are_dropped_and_the_workflow_continues(desk, caplog):
    victim = await desk.mailbox(desk.acme)
    raw = desk.raw.get_workflow_handle(victim.id)
    forged = Client(desk.raw.service_client, interceptors=[Forging(desk.beta)])
    await raw.signal(Mailbox.note, "without tenant")
    await forged.get_workflow_handle(victim.id).signal(Mailbox.note, "of another")
    await forged.get_workflow_handle(victim.id).signal(Mailbox.finish)
    await victim.signal(Mailbox.note, "own")
    assert tuple(await victim.query(Mailbox.count)) == (1, desk.acme)
    await victim.signal(Mailbox.finish)
    assert await victim.result() == [("signal own", desk.acme)]
    dropped = [r.getMessage() for r in caplog.records if "Dropped signal" in r.getMessage()]
    assert len(dropped) == 3
    assert "it has no tenant" in dropped[0]
    assert "another tenant" in dropped[1]


async def test_queries_and_updates_of_another_tenant_fail_for_their_caller_only(desk):
    victim = await desk.mailbox(desk.acme)
    clients = [desk.raw, Client(desk.raw.service_client, interceptors=[Forging(desk.beta)])]
    for client in clients:
        handle = client.get_workflow_handle(victim.id)
        with pytest.raises(WorkflowQueryFailedError, match="refused"):
            await handle.query(Mailbox.count)
        for update in (Mailbox.add, Mailbox.add_checked):
            with pytest.raises(WorkflowUpdateFailedError) as caught:
                await handle.execute_update(update, "x")
            assert isinstance(caught.value.cause, ApplicationError)
            assert caught.value.cause.type == "TenantMismatch"
    assert await victim.execute_update(Mailbox.add_checked, "own") == desk.acme
    assert await victim.execute_update(Mailbox.add, "own") == desk.acme
    await victim.signal(Mailbox.finish)
    assert await victim.result() == [("update own", desk.acme)] * 2


async def test_b25_built_in_queries_are_answered_without_a_tenant(desk):
    victim = await desk.mailbox(desk.acme)
    raw = desk.raw.get_workflow_handle(victim.id)
    assert (await raw.query("__stack_trace")).startswith("Stack for")
    assert await raw.query("__temporal_workflow_metadata") is not None
    with pytest.raises(WorkflowQueryFailedError):
        await raw.query("__anything_else")
    await victim.signal(Mailbox.finish)
    await victim.result()


@pytest.mark.parametrize(
    ("tenant", "workflow_id", "options", "kind"),
    [
        (None, "plain", {}, "TenantRequired"),
        ("Not A Tenant", "plain", {}, "TenantMismatch"),
        ("acme", "beta:order", {}, "TenantMismatch"),
        ("acme", "order", {"memo": {"tenantId": "beta"}}, "TenantMismatch"),
        ("acme", "order", {"search_attributes": "beta"}, "TenantMismatch"),
    ],
)
async def test_a_worker_fails_a_workflow_without_a_consistent_tenant(
    desk, tenant, workflow_id, options, kind
):
    if "search_attributes" in options:
        options = {
            "search_attributes": TypedSearchAttributes([SearchAttributePair(TENANT_ID, "beta")])
        }
    interceptors = [Forging(tenant)] if tenant else []
    client = Client(desk.raw.service_client, interceptors=interceptors)
    handle = await client.start_workflow(
        Mailbox.run, id=f"{workflow_id}-{desk.fresh.suffix}", task_queue=desk.queue, **options
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert isinstance(caught.value.cause, ApplicationError)
    assert (caught.value.cause.type, caught.value.cause.non_retryable) == (kind, True)


async def test_a_worker_reads_the_tenant_from_the_memo_if_there_is_no_header(desk):
    result = await desk.raw.execute_workflow(
        Child.run,
        False,
        id=desk.fresh.workflow_id(),
        task_queue=desk.queue,
        memo={"tenantId": desk.acme},
    )
    assert result["tenant"] == desk.acme


async def test_signal_with_start_carries_the_tenant(desk):
    handle = await desk.client(desk.acme).start_workflow(
        Mailbox.run,
        id=desk.fresh.workflow_id(),
        task_queue=desk.queue,
        start_signal="note",
        start_signal_args=["first"],
    )
    await handle.signal(Mailbox.finish)
    assert await handle.result() == [("signal first", desk.acme)]


async def test_update_with_start_carries_the_tenant(desk):
    client = desk.client(desk.acme)
    start = WithStartWorkflowOperation(
        Mailbox.run,
        id=desk.fresh.workflow_id(),
        task_queue=desk.queue,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
    )
    tenant = await client.execute_update_with_start_workflow(
        Mailbox.add, "first", start_workflow_operation=start
    )
    handle = await start.workflow_handle()
    assert (tenant, handle.id) == (desk.acme, f"{desk.acme}:{desk.fresh.workflow_id()}")
    await handle.signal(Mailbox.finish)
    assert await handle.result() == [("update first", desk.acme)]


async def test_a_workflow_reaches_only_its_own_tenants_workflows(desk):
    """A signal to another tenant's ID is sent to that ID below the caller's own prefix."""
    victim = await desk.mailbox(desk.beta)
    handle = await desk.client(desk.acme).start_workflow(
        Everything.run, args=[1, victim.id], id=desk.fresh.workflow_id(), task_queue=desk.queue
    )
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    history = await desk.raw.get_workflow_handle(handle.id).fetch_history()
    targets = [
        event.signal_external_workflow_execution_initiated_event_attributes.workflow_execution
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
    ]
    assert [target.workflow_id for target in targets] == [f"{desk.acme}:{victim.id}"]
    await victim.terminate()


async def test_lists_and_counts_show_a_tenant_its_own_workflows_only(desk):
    own, foreign = await desk.mailbox(desk.acme, "own"), await desk.mailbox(desk.beta, "foreign")
    client = desk.client(desk.acme)
    everything = f"TaskQueue = '{desk.queue}'"

    async def listed() -> list[str]:
        return [found.id async for found in client.list_workflows(everything)]

    await becomes(listed, [own.id])
    assert (await client.count_workflows(everything)).count == 1
    assert (await client.count_workflows(f"tenantId = '{desk.beta}'")).count == 0
    escape = f"WorkflowType='x' /* ' */ ) OR (tenantId='{desk.beta}' /* ' */"
    with pytest.raises(InvalidQueryError, match="comment"):
        await client.count_workflows(escape)
    operator = desk.client(ALL_TENANTS)

    async def counted() -> int:
        return (await operator.count_workflows(everything)).count

    await becomes(counted, 2)
    for handle in (own, foreign):
        await operator.get_workflow_handle(handle.id).signal(Mailbox.finish)
        await handle.result()


async def test_an_activitys_client_stays_its_tenants_outside_of_its_context(desk):
    """A fresh context has no tenant, so an unbound client would accept any tenant there."""
    handle = await desk.client(desk.acme).start_workflow(
        LooksAround.run, id="looks", task_queue=desk.queue
    )
    assert await handle.result() == [desk.acme, "TenantMismatchError"]


async def test_calls_for_operators_only_are_refused_to_a_tenant(desk):
    request = ListNamespacesRequest()
    with pytest.raises(ForbiddenOperationError, match="list_namespaces"):
        await desk.client(desk.acme).workflow_service.list_namespaces(request)
    answer = await desk.client(ALL_TENANTS).workflow_service.list_namespaces(request)
    assert "default" in {each.namespace_info.name for each in answer.namespaces}


async def test_a_client_of_one_tenant_cannot_make_a_worker(desk):
    with pytest.raises(ForbiddenOperationError, match="cannot make a worker"):
        Worker(desk.client(desk.acme), task_queue=desk.queue, workflows=WORKFLOWS)


async def test_a_cloned_client_keeps_its_tenant(desk):
    config = desk.client(desk.acme).config(active_config=True)
    cloned = Client(**{**config, "interceptors": []})
    handle = await cloned.start_workflow(Child.run, False, id="cloned", task_queue=desk.queue)
    assert handle.id == f"{desk.acme}:cloned"


async def test_replay_without_a_cache_gives_the_same_results(raw_client, fresh):
    desk = Desk(raw_client, fresh)
    async with desk.worker(max_cached_workflows=0):
        mailbox = await desk.mailbox(desk.acme)
        await desk.raw.get_workflow_handle(mailbox.id).signal(Mailbox.note, "forged")
        await mailbox.signal(Mailbox.note, "own")
        assert await mailbox.execute_update(Mailbox.add, "own") == desk.acme
        seen = await desk.client(desk.acme).execute_workflow(
            Everything.run, id=fresh.workflow_id(), task_queue=desk.queue
        )
        assert set(seen.tenants.values()) == {desk.acme}
        await mailbox.signal(Mailbox.finish)
        assert await mailbox.result() == [("signal own", desk.acme), ("update own", desk.acme)]


async def test_a_plugin_on_client_and_worker_checks_once_only(desk, caplog):
    queue = desk.fresh.task_queue("both")
    worker_plugin = OrkestraPlugin()
    with pytest.warns(UserWarning, match="present from both"):
        worker = Worker(
            desk.unbound, task_queue=queue, workflows=WORKFLOWS, plugins=[worker_plugin]
        )
    async with worker:
        handle = await desk.client(desk.acme).start_workflow(
            Mailbox.run, id=desk.fresh.workflow_id("both"), task_queue=queue
        )
        await desk.raw.get_workflow_handle(handle.id).signal(Mailbox.note, "forged")
        await handle.signal(Mailbox.finish)
        assert await handle.result() == []
    assert len([r for r in caplog.records if "Dropped signal" in r.getMessage()]) == 1


async def test_a_plugin_on_the_worker_alone_refuses_work_without_a_tenant(desk):
    queue = desk.fresh.task_queue("alone")
    async with Worker(desk.raw, task_queue=queue, workflows=WORKFLOWS, plugins=[OrkestraPlugin()]):
        handle = await desk.raw.start_workflow(
            Mailbox.run, id=desk.fresh.workflow_id("alone"), task_queue=queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), PATIENCE)
        assert "TenantRequired" in repr(caught.value.cause)


async def test_an_activity_of_a_workflow_without_orkestra_is_refused(desk):
    """A worker of the bare SDK runs the workflow, a worker with Orkestra its activity."""
    from temporalio.worker import UnsandboxedWorkflowRunner

    from tests.workflows.everything import seen_by_async_activity
    from tests.workflows.foreign import CallsElsewhere

    foreign_queue = desk.fresh.task_queue("foreign")
    async with Worker(
        desk.raw,
        task_queue=foreign_queue,
        workflows=[CallsElsewhere],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await desk.raw.start_workflow(
            CallsElsewhere.run,
            args=[desk.queue, seen_by_async_activity.__name__],
            id=desk.fresh.workflow_id("foreign"),
            task_queue=foreign_queue,
            execution_timeout=PATIENTLY,
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert "TenantRequired" in repr(caught.value.cause.__cause__)
