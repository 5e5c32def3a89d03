"""The guard allows the calls of the SDK's client, for two tenants at once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice import v1 as api
from temporalio.client import (
    ActivityFailureError,
    Client,
    PendingActivityState,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleIntervalSpec,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from orkestra import ALL_TENANTS, TenantRequiredError, tenant_scope
from tests.support.guarded_clients import SOON, GuardDesk, whose
from tests.support.names import Fresh
from tests.support.waiting import becomes
from tests.workflows.everything import Child, Mailbox

FAR = timedelta(days=300)


@pytest.fixture
async def desk(raw_client: Client, fresh: Fresh) -> AsyncIterator[GuardDesk]:
    made = GuardDesk(raw_client, fresh)
    async with made.worker():
        yield made


async def for_both(desk: GuardDesk, scenario: Any) -> None:
    """Run a scenario for two tenants at once, with the same IDs."""
    async with asyncio.TaskGroup() as group:
        for tenant in (desk.acme, desk.beta):
            group.create_task(scenario(tenant, desk.client(tenant)))


async def test_signals_queries_and_updates_are_sent(desk):
    async def scenario(tenant: str, client: Client) -> None:
        handle = await client.start_workflow(
            Mailbox.run, id="mail", task_queue=desk.queue, memo={"note": "x"}
        )
        assert handle.id == f"{tenant}:mail"
        await handle.signal(Mailbox.note, "one")
        assert await handle.execute_update(Mailbox.add, "two") == tenant
        assert await handle.execute_update(Mailbox.add_checked, "three") == tenant
        assert (await handle.query(Mailbox.count)) == (3, tenant)
        described = await handle.describe()
        assert described.status == WorkflowExecutionStatus.RUNNING
        await handle.signal(Mailbox.finish)
        assert [who for _, who in await handle.result()] == [tenant] * 3
        history = await handle.fetch_history()
        assert history.events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED

    await for_both(desk, scenario)


async def test_starts_with_a_signal_or_an_update_are_sent(desk):
    async def scenario(tenant: str, client: Client) -> None:
        handle = await client.start_workflow(
            Mailbox.run,
            id="signalled",
            task_queue=desk.queue,
            start_signal="note",
            start_signal_args=["x"],
        )
        start = WithStartWorkflowOperation(
            Mailbox.run,
            id="updated",
            task_queue=desk.queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        update = await client.execute_update_with_start_workflow(
            Mailbox.add, "y", start_workflow_operation=start
        )
        assert update == tenant
        for mailbox in (handle, await start.workflow_handle()):
            await mailbox.signal(Mailbox.finish)
            assert await mailbox.result()

    await for_both(desk, scenario)


async def test_an_eager_start_is_sent(desk):
    handle = await desk.client(desk.acme).start_workflow(
        Child.run, id="eager", task_queue=desk.queue, request_eager_start=True
    )
    assert (await handle.result())["tenant"] == desk.acme


async def test_workflows_can_be_cancelled_terminated_reset_and_deleted(desk):
    async def scenario(tenant: str, client: Client) -> None:
        for end in ("cancel", "terminate"):
            handle = await client.start_workflow(Mailbox.run, id=end, task_queue=desk.queue)
            await getattr(handle, end)()
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        execution = WorkflowExecution(workflow_id=f"{tenant}:terminate")
        await client.start_workflow(Mailbox.run, id="reset", task_queue=desk.queue)
        await client.get_workflow_handle("reset").query(Mailbox.count)
        await client.workflow_service.reset_workflow_execution(
            api.ResetWorkflowExecutionRequest(
                namespace="default",
                workflow_execution=WorkflowExecution(workflow_id=f"{tenant}:reset"),
                workflow_task_finish_event_id=3,
                request_id="r",
                reason="test",
            )
        )
        await client.get_workflow_handle("reset").signal(Mailbox.finish)
        assert await client.get_workflow_handle("reset").result() == []
        await client.workflow_service.delete_workflow_execution(
            api.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
        )

    await for_both(desk, scenario)


async def test_handles_with_unscoped_ids_get_results(desk):
    async def scenario(tenant: str, client: Client) -> None:
        handle = await client.start_workflow(Mailbox.run, id="plain", task_queue=desk.queue)
        update = await handle.start_update(
            Mailbox.add, "x", id="u1", wait_for_stage=WorkflowUpdateStage.ACCEPTED, result_type=str
        )
        assert await update.result() == tenant
        plain = client.get_workflow_handle("plain")
        assert await plain.get_update_handle("u1").result() == tenant
        await plain.signal("finish")
        assert await plain.result() == [["update x", tenant]]
        await client.start_activity(
            whose, id="plain", task_queue=desk.queue, start_to_close_timeout=SOON
        )
        assert await client.get_activity_handle("plain").result() == tenant

    await for_both(desk, scenario)


async def test_standalone_activities_run(desk):
    async def scenario(tenant: str, client: Client) -> None:
        done = await client.execute_activity(
            whose, id="done", task_queue=desk.queue, start_to_close_timeout=SOON
        )
        assert done == tenant
        handle = await desk.open_activity(tenant)
        assert (await handle.describe()).activity_id == f"{tenant}:{desk.fresh.workflow_id('open')}"
        cancelled = await desk.open_activity(tenant, "cancelled")
        await cancelled.cancel()
        await handle.terminate()
        with pytest.raises(ActivityFailureError):
            await handle.result()

        async def listed() -> set[str]:
            return {row.activity_id async for row in client.list_activities("")}

        await becomes(listed, {f"{tenant}:done", handle.id, cancelled.id})
        assert (await client.count_activities("")).count == 3

    await for_both(desk, scenario)


async def test_activities_are_completed_by_id(desk):
    async def scenario(tenant: str, client: Client) -> None:
        opened = {name: await desk.open_activity(tenant, name) for name in ("a", "b")}
        name = desk.fresh.workflow_id("a")
        by_id = client.get_async_activity_handle(workflow_id=None, run_id=None, activity_id=name)
        await becomes(lambda: _taken(opened["a"]), True)
        await by_id.heartbeat("here")
        await by_id.complete(f"done for {tenant}")
        assert await opened["a"].result() == f"done for {tenant}"
        await becomes(lambda: _taken(opened["b"]), True)
        failing = client.get_async_activity_handle(
            workflow_id=None, run_id=None, activity_id=opened["b"].id
        )
        await failing.fail(RuntimeError("no"))

    await for_both(desk, scenario)


async def _taken(handle: Any) -> bool:
    state = (await handle.describe()).run_state
    return state == PendingActivityState.STARTED


async def test_schedules_run(desk):
    async def scenario(tenant: str, client: Client) -> None:
        action = ScheduleActionStartWorkflow(
            Child.run, id="scheduled", task_queue=desk.queue, memo={"note": "x"}
        )
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=FAR)])
        handle = await client.create_schedule("sched", Schedule(action=action, spec=spec))
        assert handle.id == f"{tenant}:sched"
        await handle.trigger()

        async def started() -> bool:
            query = "WorkflowType = 'Child' AND ExecutionStatus = 'Completed'"
            found = [row.id async for row in client.list_workflows(query)]
            return bool(found) and all(i.startswith(f"{tenant}:scheduled-") for i in found)

        await becomes(started, True)
        await handle.pause(note="stop")
        await handle.unpause()
        described = await handle.describe()
        now = described.info.created_at
        await handle.backfill(ScheduleBackfill(now - timedelta(seconds=1), now))

        def same(given: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(given.description.schedule)

        def fresh(_given: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(Schedule(action=action, spec=spec))

        await handle.update(same)
        await handle.update(fresh)

        async def listed() -> list[str]:
            return [row.id async for row in await client.list_schedules()]

        await becomes(listed, [handle.id])

        times = api.ListScheduleMatchingTimesRequest(namespace="default", schedule_id=handle.id)
        times.start_time.FromDatetime(now)
        times.end_time.FromDatetime(now + FAR * 2)
        found = await client.workflow_service.list_schedule_matching_times(times)
        assert found.start_time
        await handle.delete()

    await for_both(desk, scenario)


async def test_lists_and_counts_show_the_tenants_own_rows(desk):
    async def scenario(tenant: str, client: Client) -> None:
        for number in range(3):
            await client.start_workflow(Mailbox.run, id=f"m{number}", task_queue=desk.queue)

        async def listed() -> list[str]:
            rows = client.list_workflows(
                "WorkflowType = 'Mailbox' OR WorkflowType = 'x'", page_size=1
            )
            return sorted([row.id async for row in rows])

        await becomes(listed, [f"{tenant}:m{number}" for number in range(3)])
        assert (await client.count_workflows()).count == 3
        groups = (await client.count_workflows("GROUP BY ExecutionStatus")).groups
        assert [group.count for group in groups] == [3]
        for number in range(3):
            await client.get_workflow_handle(f"m{number}").terminate()

    await for_both(desk, scenario)


async def test_an_unbound_client_acts_for_its_scope_and_an_operator_for_all(desk):
    with tenant_scope(desk.acme):
        handle = await desk.unbound.start_workflow(Mailbox.run, id="x", task_queue=desk.queue)
    with pytest.raises(TenantRequiredError):
        await handle.describe()
    operator = desk.client(ALL_TENANTS)
    assert (await operator.get_workflow_handle(handle.id).describe()).id == f"{desk.acme}:x"
    await operator.workflow_service.list_namespaces(api.ListNamespacesRequest())
    with tenant_scope(desk.beta), pytest.raises(RPCError, match="not found"):
        await operator.get_workflow_handle(handle.id).describe()
    with tenant_scope(desk.acme):
        await handle.terminate()


async def test_a_tenants_client_can_describe_server_and_namespace(desk):
    client = desk.client(desk.acme)
    assert await client.service_client.check_health()
    described = await client.workflow_service.describe_namespace(
        api.DescribeNamespaceRequest(namespace="default")
    )
    assert described.namespace_info.name == "default"
    assert (
        await client.workflow_service.get_system_info(api.GetSystemInfoRequest())
    ).server_version
