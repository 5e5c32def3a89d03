"""A suspended tenant cannot start work by any route, and loses nothing."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleSpec,
    WorkflowExecutionStatus,
)
from temporalio.worker import Worker

from orkestra import ALL_TENANTS, TenantMismatchError, TenantSuspendedError
from orkestra.directory import CachedTenantDirectory, TenantRecord, TenantStatus
from orkestra.temporal.admin import Unowned, find_unowned, resume_schedules, suspend_schedules
from tests.support.tenants import PlacedTenants
from tests.support.waiting import until
from tests.workflows.suspended import TICK, WORKFLOWS, Again, Parent, Ticks


@pytest.fixture
async def placed(dev_server, raw_client, fresh) -> AsyncIterator[PlacedTenants]:
    made = PlacedTenants(dev_server.address, raw_client, fresh)
    async with Worker(made.client(None), task_queue=made.queue, workflows=WORKFLOWS):
        yield made


def suspend(placed: PlacedTenants) -> None:
    placed.records[placed.shared] = TenantRecord(placed.shared, status=TenantStatus.SUSPENDED)


def reinstate(placed: PlacedTenants) -> None:
    placed.records[placed.shared] = TenantRecord(placed.shared)


async def hourly(client: Client, placed: PlacedTenants, name: str) -> ScheduleHandle:
    return await client.create_schedule(
        placed.id(name),
        Schedule(
            ScheduleActionStartWorkflow(Ticks.run, id=placed.id(name), task_queue=placed.queue),
            ScheduleSpec(intervals=[ScheduleIntervalSpec(timedelta(hours=1))]),
        ),
    )


async def schedules_of(placed: PlacedTenants) -> list[str]:
    """Rows of the server's lists, which show changes late."""
    found = await placed.raw.list_schedules(f"tenantId = '{placed.shared}'")
    return [each.id async for each in found]


async def runs(
    placed: PlacedTenants, workflow_id: str, status: WorkflowExecutionStatus
) -> list[str | None]:
    listed = placed.raw.list_workflows(f"WorkflowId = '{workflow_id}'")
    return [run.run_id async for run in listed if run.status is status]


async def test_b17_a_schedule_of_a_suspended_tenant_starts_nothing_that_runs(placed):
    client = placed.client(placed.shared)
    schedule = await client.create_schedule(
        placed.id("s"),
        Schedule(
            ScheduleActionStartWorkflow(Ticks.run, id=placed.id("tick"), task_queue=placed.queue),
            ScheduleSpec(intervals=[ScheduleIntervalSpec(TICK)]),
        ),
    )
    try:
        suspend(placed)

        async def refused() -> bool:
            actions = (await schedule.describe()).info.recent_actions
            started = [placed.raw.get_workflow_handle(each.action.workflow_id) for each in actions]
            described = [await each.describe() for each in started]
            return WorkflowExecutionStatus.FAILED in {each.status for each in described}

        await until(refused)
    finally:
        await schedule.delete()


async def test_suspending_pauses_the_tenants_schedules_and_resuming_unpauses_only_those(placed):
    client, operator = placed.client(placed.shared), placed.client(ALL_TENANTS)
    running = [await hourly(client, placed, f"s{number}") for number in range(2)]
    by_hand = await hourly(client, placed, "by-hand")
    await by_hand.pause(note="until the audit")
    of_another = await hourly(placed.client(placed.own), placed, "other")

    async def are_listed() -> bool:
        return len(await schedules_of(placed)) == 3

    await until(are_listed)

    suspend(placed)
    assert await suspend_schedules(operator, placed.shared) == 2
    assert await suspend_schedules(operator, placed.shared) == 0
    described = [(await each.describe()).schedule.state for each in (*running, by_hand)]
    assert [state.paused for state in described] == [True, True, True]
    assert described[2].note == "until the audit"
    assert not (await of_another.describe()).schedule.state.paused
    with pytest.raises(TenantSuspendedError):
        await resume_schedules(client, placed.shared)
    with pytest.raises(TenantMismatchError):
        await suspend_schedules(placed.client(placed.own), placed.shared)

    reinstate(placed)
    assert await resume_schedules(operator, placed.shared) == 2
    paused = [(await each.describe()).schedule.state.paused for each in (*running, by_hand)]
    assert paused == [False, False, True]
    for schedule in (*running, by_hand, of_another):
        await schedule.delete()


async def test_schedules_are_paused_in_the_tenants_own_namespace(placed):
    client = placed.client(placed.apart, namespace="second")
    schedule = await hourly(client, placed, "apart")
    operator = placed.client(ALL_TENANTS)
    await until(lambda: suspend_schedules(operator, placed.apart))
    assert (await schedule.describe()).schedule.state.paused
    await schedule.delete()


async def test_b17_each_run_of_a_cron_schedule_is_refused(placed):
    client = placed.client(placed.shared)
    handle = await client.start_workflow(
        Ticks.run, id=placed.id("cron"), task_queue=placed.queue, cron_schedule="@every 1s"
    )
    suspend(placed)
    await until(lambda: runs(placed, handle.id, WorkflowExecutionStatus.FAILED))
    reinstate(placed)
    await until(lambda: runs(placed, handle.id, WorkflowExecutionStatus.COMPLETED))
    await placed.raw.get_workflow_handle(handle.id).terminate()


async def test_b17_a_continued_run_waits_until_its_tenant_is_active_again(placed, caplog):
    client = placed.client(placed.shared)
    handle = await client.start_workflow(
        Again.run,
        0,
        id=placed.id("again"),
        task_queue=placed.queue,
        task_timeout=timedelta(seconds=1),
    )
    assert await handle.query(Again.told) is False
    suspend(placed)
    await handle.signal(Again.go)
    await until(lambda: "a later run of this workflow waits" in caplog.text)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    reinstate(placed)
    assert await handle.result() == 1


async def test_b17_a_child_is_refused_and_its_parent_learns_why(placed):
    client = placed.client(placed.shared)
    handle = await client.start_workflow(
        Parent.run, id=placed.id("parent"), task_queue=placed.queue
    )
    assert await handle.query(Parent.told) is False
    suspend(placed)
    await handle.signal(Parent.go)
    assert "is suspended" in await handle.result()


async def test_suspension_takes_effect_when_the_directory_cache_expires(
    dev_server, raw_client, fresh
):
    placed = PlacedTenants(dev_server.address, raw_client, fresh)
    seconds = [0.0]
    placed.directory = CachedTenantDirectory(
        placed.directory.source, ttl=timedelta(seconds=30), clock=lambda: seconds[-1]
    )
    client = placed.client(placed.shared)
    start = {"task_queue": placed.queue}
    await client.start_workflow(Ticks.run, id=placed.id("before"), **start)
    suspend(placed)
    await client.start_workflow(Ticks.run, id=placed.id("meanwhile"), **start)
    seconds.append(31.0)
    with pytest.raises(TenantSuspendedError):
        await client.start_workflow(Ticks.run, id=placed.id("after"), **start)


async def test_b04_ids_under_a_tenants_prefix_without_its_attribute_are_reported(placed):
    """A tenant called `order` would seem to own an older `order:17`."""
    operator = placed.client(ALL_TENANTS)
    old = f"{placed.shared}:17"
    stranger = f"{placed.fresh.tenant('stranger')}:17"
    handles = [
        await placed.raw.start_workflow(Ticks.run, id=each, task_queue="nobody-polls")
        for each in (old, stranger)
    ]
    kept = await placed.client(placed.shared).start_workflow(
        Again.run, 0, id=placed.id("kept"), task_queue=placed.queue
    )
    plan = Schedule(
        ScheduleActionStartWorkflow(Ticks.run, id="x", task_queue="nobody-polls"), ScheduleSpec()
    )
    schedule = await placed.raw.create_schedule(f"{placed.shared}:daily", plan)
    expected = [
        Unowned("workflow", old, placed.shared),
        Unowned("schedule", f"{placed.shared}:daily", placed.shared),
    ]
    for tenants in (None, [placed.shared, placed.own]):

        async def all_are_found(tenants: list[str] | None = tenants) -> bool:
            return await find_unowned(operator, tenants=tenants) == expected

        await until(all_are_found)
    for handle in (*handles, kept):
        await handle.terminate()
    await schedule.delete()
