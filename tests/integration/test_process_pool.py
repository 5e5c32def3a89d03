"""`current_tenant()` in activities that run in other processes, forked and spawned."""

import asyncio
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.worker import SharedStateManager, Worker

from orkestra import OrkestraPlugin, current_tenant
from tests.workflows.slow import Slow, whose

ROOT = Path(__file__).parents[2]
ROUNDS = 30


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_interleaved_activities_see_their_own_tenant(dev_server, fresh, method):
    tenants = [fresh.tenant(name) for name in ("acme", "beta")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.programs.process_pool", dev_server.address),
        *(fresh.task_queue(), method, str(ROUNDS), *tenants),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    answers = json.loads(output)
    assert len(answers) == ROUNDS * 2
    assert [seen for tenant, seen in answers if seen != tenant] == []


async def test_a_process_of_the_pool_keeps_no_tenant_after_an_activity(raw_client, fresh):
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as state,
        ThreadPoolExecutor(1) as poller,
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        async with Worker(
            Client(raw_client.service_client, plugins=[OrkestraPlugin()]),
            task_queue=fresh.task_queue(),
            workflows=[Slow],
            activities=[whose],
            activity_executor=pool,
            max_concurrent_activities=1,
            shared_state_manager=SharedStateManager.create_from_multiprocessing(state, poller),
        ):
            tenant = fresh.tenant()
            client = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=tenant)])
            seen = await client.execute_workflow(
                Slow.run, args=["whose", 0.0], id="one", task_queue=fresh.task_queue()
            )
        left = await asyncio.wrap_future(pool.submit(current_tenant))
    assert seen == tenant
    assert left is None
