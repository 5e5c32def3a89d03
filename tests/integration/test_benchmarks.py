"""What is measured does what the figures say of it."""

from collections import Counter
from contextlib import AsyncExitStack

import pytest
from temporalio import activity
from temporalio.worker import Worker

from benchmarks.crowd import Crowd
from benchmarks.helpers import team
from benchmarks.variants import BARE
from benchmarks.workloads.minimal import OneActivity
from orkestra import OrkestraConfig, TemporalConnectionManager, TemporalSettings, current_tenant
from orkestra.devserver import DevServer
from tests.support.names import Fresh


async def test_a_crowd_is_seen_by_the_worker_and_takes_turns(dev_server: DevServer, fresh: Fresh):
    seen: Counter[str | None] = Counter()

    @activity.defn
    async def greet(name: str) -> str:
        seen[current_tenant()] += 1
        return name

    config = OrkestraConfig(temporal=TemporalSettings(address=dev_server.address))
    queue = fresh.task_queue()
    async with TemporalConnectionManager(config) as manager:
        client = await manager.get_client()
        crowd = Crowd(manager, client, queue)
        async with Worker(client, task_queue=queue, workflows=[OneActivity], activities=[greet]):
            await crowd.grow(2)
            assert seen == {"tenant-0": 1, "tenant-1": 1}
            await crowd.grow(3)
            assert seen == {"tenant-0": 1, "tenant-1": 1, "tenant-2": 1}
            await crowd.run(2)
            await crowd.run(2)
    assert seen == {"tenant-0": 3, "tenant-1": 2, "tenant-2": 2}


@pytest.mark.parametrize("under", [(), ("env",)])
async def test_a_worker_does_the_work_whose_cost_is_asked_for(dev_server: DevServer, under):
    """Under a command, too, as callgrind is: there it is another kind of worker."""
    async with AsyncExitStack() as stack:
        each = await team(stack, BARE, dev_server.address, under=under)
        before = await each.worker.ask("used")
        ran = await each.client.ask("run", scenario="one activity", count=1)
        assert ran["history"] > 0
        assert await each.worker.ask("used") > before
