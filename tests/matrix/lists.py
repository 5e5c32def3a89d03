"""Rows: lists and counts, which show a tenant its own rows only."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.api.workflowservice.v1 import CountSchedulesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    ScheduleState,
)

from orkestra.errors import InvalidQueryError
from tests.matrix.model import NO_CODE, Check, Row
from tests.matrix.side import Side, refused_for_two, refused_without_tenant
from tests.support.waiting import PATIENTLY, until
from tests.workflows.activities import whose_activity
from tests.workflows.matrix import Whose

Make = Callable[[Side, Client, str], Awaitable[Any]]
Rows = Callable[[Client, str], Awaitable[list[str]]]
"""Takes a client and a query; returns the IDs found, or for a count as many texts."""


async def workflow(side: Side, client: Client, name: str) -> None:
    await client.execute_workflow(Whose.run, id=name, task_queue=side.queue)


async def schedule(side: Side, client: Client, name: str) -> None:
    await client.create_schedule(
        name,
        Schedule(
            action=ScheduleActionStartWorkflow(Whose.run, id="w", task_queue=side.queue),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=300))]),
            state=ScheduleState(paused=True),
        ),
    )


async def activity(side: Side, client: Client, name: str) -> None:
    await client.execute_activity(
        whose_activity, id=name, task_queue=side.queue, start_to_close_timeout=PATIENTLY
    )


async def list_workflows(client: Client, query: str) -> list[str]:
    return [row.id async for row in client.list_workflows(query)]


async def list_schedules(client: Client, query: str) -> list[str]:
    return [row.id async for row in await client.list_schedules(query)]


async def list_activities(client: Client, query: str) -> list[str]:
    return [row.activity_id async for row in client.list_activities(query)]


async def count_workflows(client: Client, query: str) -> list[str]:
    return ["row"] * (await client.count_workflows(query)).count


async def count_activities(client: Client, query: str) -> list[str]:
    return ["row"] * (await client.count_activities(query)).count


async def count_schedules(client: Client, query: str) -> list[str]:
    request = CountSchedulesRequest(namespace=client.namespace, query=query)
    return ["row"] * (await client.workflow_service.count_schedules(request)).count


def _carried(make: Make, rows: Rows) -> Check:
    async def run(side: Side) -> None:
        await make(side, side.client, side.name())
        await make(side, side.rivals_client, side.name("rivals"))
        everything = f"tenantId IN ('{side.tenant}', '{side.rival}')"

        async def all_are_there() -> bool:
            return len(await rows(side.client, "")) == len(await rows(side.rivals_client, "")) == 2

        await until(all_are_there)
        for query in ("", everything):
            found = await rows(side.client, query)
            assert len(found) == 2
            assert all(row == "row" or row.startswith(f"{side.tenant}:") for row in found)

    return Check("the guard adds it to the query: all rows of the tenant and no others", run)


def _missing(rows: Rows) -> Check:
    async def run(side: Side) -> None:
        await refused_without_tenant(side, lambda client: rows(client, ""))

    return Check("refused before it is sent", run)


def _mismatch(rows: Rows) -> Check:
    async def run(side: Side) -> None:
        await refused_for_two(side, lambda client: rows(client, ""))

    return Check("in another tenant's scope: refused before it is sent", run)


def _other(make: Make, rows: Rows) -> Check:
    async def run(side: Side) -> None:
        await make(side, side.rivals_client, side.name("rivals"))

        async def is_there() -> bool:
            return bool(await rows(side.rivals_client, ""))

        await until(is_there)
        rivals = f"tenantId = '{side.rival}'"
        for query in (rivals, f"{rivals} OR tenantId != 'x'"):
            found = await rows(side.client, query)
            assert not [row for row in found if row.startswith(side.rival)]
        for query in (
            f"tenantId = 'x') OR ({rivals}",
            f"tenantId = 'x' /* ' */ ) OR ({rivals} /* ' */",
            f"tenantId = 'x') OR {rivals} -- ",
        ):
            with pytest.raises(InvalidQueryError):
                await rows(side.client, query)

    return Check(
        "a query that names another tenant finds nothing; one that tries to escape is refused", run
    )


def _row(kind: str, make: Make, rows: Rows, *, calls: str, rpcs: str) -> Row:
    return Row(
        kind=kind,
        calls=calls,
        rpcs=rpcs,
        carried=_carried(make, rows),
        missing=_missing(rows),
        mismatch=_mismatch(rows),
        other=_other(make, rows),
        replay=NO_CODE,
    )


LISTS: Final = (
    _row(
        "list of workflows",
        workflow,
        list_workflows,
        calls="client.list_workflows",
        rpcs="list_workflow_executions",
    ),
    _row(
        "count of workflows",
        workflow,
        count_workflows,
        calls="client.count_workflows",
        rpcs="count_workflow_executions",
    ),
    _row(
        "list of schedules",
        schedule,
        list_schedules,
        calls="client.list_schedules",
        rpcs="list_schedules",
    ),
    _row(
        "count of schedules (raw request)",
        schedule,
        count_schedules,
        calls="",
        rpcs="count_schedules",
    ),
    _row(
        "list of standalone activities",
        activity,
        list_activities,
        calls="client.list_activities",
        rpcs="list_activity_executions",
    ),
    _row(
        "count of standalone activities",
        activity,
        count_activities,
        calls="client.count_activities",
        rpcs="count_activity_executions",
    ),
)
