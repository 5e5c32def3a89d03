"""Schedules, whose action decides what the server starts workflows with."""

import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError

from orkestra import ForbiddenOperationError, TenantMismatchError
from tests.matrix.model import Check
from tests.matrix.side import (
    TENANT_ID,
    Side,
    attribute,
    fails,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.forged_headers import tenant_header
from tests.support.waiting import until
from tests.workflows.matrix import Whose

Call = Callable[[Side, Client, str], Awaitable[Any]]
"""Takes the side, a client and the ID of a schedule."""

Updater = Callable[[Side, ScheduleUpdateInput], ScheduleUpdate]

HOUR: Final = timedelta(hours=1)


def action(side: Side, **options: Any) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(Whose.run, id="run", task_queue=side.queue, **options)


def plan(side: Side, **options: Any) -> Schedule:
    every = ScheduleIntervalSpec(every=HOUR, offset=timedelta(minutes=30))
    return Schedule(action=action(side, **options), spec=ScheduleSpec(intervals=[every]))


async def create(side: Side, client: Client, name: str) -> None:
    await client.create_schedule(name, plan(side), memo={"note": "kept"})


async def trigger(side: Side, client: Client, name: str) -> None:
    await client.get_schedule_handle(name).trigger()


async def backfill(side: Side, client: Client, name: str) -> None:
    end = datetime.now(UTC)
    await client.get_schedule_handle(name).backfill(
        ScheduleBackfill(end - HOUR, end, overlap=ScheduleOverlapPolicy.ALLOW_ALL)
    )


async def pause(side: Side, client: Client, name: str) -> None:
    await client.get_schedule_handle(name).pause(note="matrix")


async def unpause(side: Side, client: Client, name: str) -> None:
    await client.get_schedule_handle(name).unpause(note="matrix")


async def describe(side: Side, client: Client, name: str) -> Any:
    return await client.get_schedule_handle(name).describe()


async def delete(side: Side, client: Client, name: str) -> None:
    await client.get_schedule_handle(name).delete()


def same(side: Side, described: ScheduleUpdateInput) -> ScheduleUpdate:
    return ScheduleUpdate(described.description.schedule)


def changed(side: Side, described: ScheduleUpdateInput) -> ScheduleUpdate:
    schedule = described.description.schedule
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    schedule.action.memo = {"changed": True}
    schedule.action.execution_timeout = HOUR
    return ScheduleUpdate(schedule)


def fresh(side: Side, described: ScheduleUpdateInput) -> ScheduleUpdate:
    schedule = copy.copy(described.description.schedule)
    schedule.action = action(side)
    return ScheduleUpdate(schedule, described.description.typed_search_attributes)


def update(updater: Updater) -> Call:
    async def call(side: Side, client: Client, name: str) -> None:
        await client.get_schedule_handle(name).update(lambda described: updater(side, described))

    return call


def _at_server(side: Side) -> ScheduleHandle:
    return side.raw.get_schedule_handle(side.own(side.name()))


async def _run_is_own(side: Side) -> None:
    """Assert that the schedule has started a workflow with its tenant in every place."""

    async def started() -> Any:
        return (await _at_server(side).describe()).info.recent_actions

    [first, *_] = await until(started)
    assert isinstance(first.action, ScheduleActionExecutionStartWorkflow)
    assert first.action.workflow_id.startswith(side.own("run"))
    handle = side.raw.get_workflow_handle(first.action.workflow_id)
    assert await handle.result() == side.tenant
    description = await handle.describe()
    assert description.typed_search_attributes[TENANT_ID] == side.tenant
    assert description.raw_info.priority.fairness_key == side.tenant


def carries(call: Call, *, starts: bool = False) -> Check:
    async def run(side: Side) -> None:
        await create(side, side.client, side.name())
        if call is not create:
            await call(side, side.client, side.name())
        if not starts:
            await trigger(side, side.client, side.name())
        await _run_is_own(side)
        described = await _at_server(side).describe()
        assert described.typed_search_attributes[TENANT_ID] == side.tenant

    return Check("the workflows it starts see it; both have the attribute and the prefix", run)


async def _paused(side: Side, *, is_paused: bool) -> None:
    assert (await _at_server(side).describe()).schedule.state.paused is is_paused


async def pausing(side: Side) -> None:
    await create(side, side.client, side.name())
    await pause(side, side.client, side.name())
    await _paused(side, is_paused=True)


async def unpausing(side: Side) -> None:
    await pausing(side)
    await unpause(side, side.client, side.name())
    await _paused(side, is_paused=False)


async def describing(side: Side) -> None:
    await create(side, side.client, side.name())
    described = await describe(side, side.client, side.name())
    assert described.typed_search_attributes[TENANT_ID] == side.tenant


async def deleting(side: Side) -> None:
    await create(side, side.client, side.name())
    await delete(side, side.client, side.name())
    with pytest.raises(RPCError):
        await _at_server(side).describe()


def refuses_missing(call: Call) -> Check:
    async def run(side: Side) -> None:
        await refused_without_tenant(side, lambda client: call(side, client, side.name()))

    return Check("refused before it is sent", run)


def refuses_mismatch(call: Call) -> Check:
    async def run(side: Side) -> None:
        await refused_for_two(side, lambda client: call(side, client, side.name()))

    return Check("in another tenant's scope: refused before it is sent", run)


def refuses_other(call: Call) -> Check:
    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        await create(side, side.rivals_client, victims_name)
        victim = side.rivals_client.get_schedule_handle(victims_name)
        before = await victim.describe()
        for name in (victims_name, f"{side.rival}:{victims_name}"):
            with not_found():
                await call(side, side.client, name)
        after = await victim.describe()
        assert (after.schedule.state, after.info.num_actions) == (before.schedule.state, 0)

    return Check("not found: the ID is scoped to the caller's own prefix", run)


async def other_create(side: Side) -> None:
    victims_name = f"victim-of-{side.tenant}"
    await create(side, side.rivals_client, victims_name)
    await create(side, side.client, f"{side.rival}:{victims_name}")
    own = side.raw.get_schedule_handle(side.own(f"{side.rival}:{victims_name}"))
    assert (await own.describe()).typed_search_attributes[TENANT_ID] == side.tenant


async def missing_create(side: Side) -> None:
    await refused_without_tenant(side, lambda client: create(side, client, side.name()))
    name = f"raw-{side.own(side.name())}"
    schedule = plan(side)
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    schedule.action.id = name
    handle = await side.raw.create_schedule(name, schedule, trigger_immediately=True)

    async def started() -> Any:
        return (await handle.describe()).info.recent_actions

    [first, *_] = await until(started)
    with fails("TenantRequired"):
        await side.raw.get_workflow_handle(first.action.workflow_id).result()


async def mismatch_create(side: Side) -> None:
    await refused_for_two(side, lambda client: create(side, client, side.name()))
    for options in _contradictions(side):
        with pytest.raises(TenantMismatchError, match=side.rival):
            await side.client.create_schedule(side.name(), plan(side, **options))
    with not_found():
        await _at_server(side).describe()


def _contradictions(side: Side) -> list[dict[str, Any]]:
    return [
        {"typed_search_attributes": attribute(side.rival)},
        {"memo": {"tenantId": side.rival}},
        {"headers": tenant_header(side.rival)},
    ]


async def mismatch_update(side: Side) -> None:
    await create(side, side.client, side.name())
    handle = side.client.get_schedule_handle(side.name())
    for options in _contradictions(side):
        schedule = plan(side, **options)
        with pytest.raises(TenantMismatchError, match=side.rival):
            await handle.update(lambda _, schedule=schedule: ScheduleUpdate(schedule))
    with pytest.raises(TenantMismatchError, match=side.rival):
        await handle.update(lambda _: ScheduleUpdate(plan(side), attribute(side.rival)))
    await refused_for_two(side, lambda client: update(same)(side, client, side.name()))


async def matching_times(side: Side, client: Client, schedule_id: str) -> Any:
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(datetime.now(UTC))
    end.FromDatetime(datetime.now(UTC) + HOUR)
    request = ListScheduleMatchingTimesRequest(
        namespace=client.namespace, schedule_id=schedule_id, start_time=start, end_time=end
    )
    return await client.workflow_service.list_schedule_matching_times(request)


async def matching(side: Side) -> None:
    await create(side, side.client, side.name())
    found = await matching_times(side, side.client, side.own(side.name()))
    assert len(found.start_time) == 1


async def other_matching(side: Side) -> None:
    with pytest.raises(ForbiddenOperationError, match=side.rival):
        await matching_times(side, side.client, f"{side.rival}:x")
