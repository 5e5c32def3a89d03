"""A big tenant cannot delay small ones, whatever it sets.

All activity tasks stand in the queue before the worker starts, which has twenty slots and the SDK's
five pollers. The queue has one partition: each shares out by itself, so with the server's default
of four the last of the twenty depends on how they happened to fall, at 9 to 16 % where one
partition gives 8 %.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
)

from orkestra import current_tenant
from orkestra.devserver import DevServer
from orkestra.directory import TenantRecord
from tests.support.tenants import PlacedTenants
from tests.support.waiting import until
from tests.workflows.many_activities import ABUSES, Crowd, note

BIG, SMALL = 500, 20


class Order(Interceptor):
    """Notes the tenants of finished activities, in order."""

    def __init__(self) -> None:
        self.done: list[str | None] = []

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        order = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> object:
                result = await super().execute_activity(input)
                order.done.append(current_tenant())
                return result

        return Inbound(next)


async def backlog(client: Client, queue: str) -> int:
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace="default",
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_stats=True,
        )
    )
    return answer.stats.approximate_backlog_count


async def served(placed: PlacedTenants, crowds: list[tuple[str, int, str]]) -> list[str | None]:
    """Tenants of the activities in the order of service, with all queued at the start."""
    queue = placed.fresh.task_queue("crowd")
    order = Order()
    last = crowds[-1][0]
    async with Worker(placed.client(None), task_queue=placed.queue, workflows=[Crowd]):
        handles = []
        for position, (tenant, count, abuse) in enumerate(crowds):
            handle = await placed.client(tenant).start_workflow(
                Crowd.run,
                args=[count, queue, abuse, last],
                id=placed.id(f"crowd-{position}"),
                task_queue=placed.queue,
            )
            handles.append(handle)
            waiting = sum(crowd[1] for crowd in crowds[: position + 1])

            async def all_wait(expected: int = waiting) -> bool:
                return await backlog(placed.raw, queue) >= expected

            await until(all_wait)
        async with Worker(
            placed.client(None),
            task_queue=queue,
            activities=[note],
            interceptors=[order],
            max_concurrent_activities=20,
        ):
            await asyncio.gather(*(handle.result() for handle in handles))
    return order.done


@pytest.fixture
async def placed(fresh) -> AsyncIterator[PlacedTenants]:
    config: dict[str, int | str] = {
        "matching.numTaskqueueReadPartitions": 1,
        "matching.numTaskqueueWritePartitions": 1,
        # How old the backlog may be that the server reports.
        "matching.TaskQueueInfoByBuildIdTTL": "50ms",
    }
    async with DevServer(dynamic_config=config) as server:
        made = PlacedTenants(server.address, await Client.connect(server.address), fresh)
        made.records[made.own] = TenantRecord(made.own)
        yield made


@pytest.mark.parametrize(
    "crowds",
    [
        pytest.param([(BIG, "none")], id="honest"),
        pytest.param([(BIG // 4, abuse) for abuse in ABUSES], id="-".join(ABUSES)),
    ],
)
async def test_b13_twenty_behind_five_hundred_are_done_in_the_first_share_of_them(placed, crowds):
    big, small = placed.shared, placed.own
    done = await served(
        placed, [*((big, count, abuse) for count, abuse in crowds), (small, SMALL, "none")]
    )
    assert Counter(done) == {big: BIG, small: SMALL}
    last = len(done) - done[::-1].index(small)
    assert last <= 0.15 * (BIG + SMALL)


async def test_the_weight_of_the_directory_decides_the_share(placed):
    """Weights 1, 2 and 4 of three tenants, counted while all three still wait."""
    tenants = [placed.fresh.tenant(name) for name in ("one", "two", "four")]
    for tenant, weight in zip(tenants, (None, 2.0, 4.0), strict=True):
        placed.records[tenant] = TenantRecord(tenant, fairness_weight=weight)
    done = await served(placed, [(tenant, 100, "none") for tenant in tenants])
    shares = [Counter(done[:140])[tenant] for tenant in tenants]
    assert shares == [pytest.approx(share, abs=6) for share in (20, 40, 80)]
