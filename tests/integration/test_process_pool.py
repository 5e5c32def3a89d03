"""`current_tenant()` in activities that run in other processes, forked and spawned."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from temporalio.client import Client
from temporalio.worker import SharedStateManager, Worker

from orkestra import OrkestraPlugin, current_tenant, tenant_scope
from tests.workflows.slow import Slow, whose

ROUNDS = 30


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_interleaved_activities_see_their_own_tenant(raw_client, fresh, method):
    context = multiprocessing.get_context(method)
    tenants = [fresh.tenant(name) for name in ("acme", "beta")]
    unbound = Client(raw_client.service_client, plugins=[OrkestraPlugin()])
    with (
        context.Manager() as state,
        ThreadPoolExecutor(1) as poller,
        ProcessPoolExecutor(4, mp_context=context) as pool,
    ):
        with tenant_scope("whoever-started-the-pool"):
            assert pool.submit(abs, -1).result() == 1
        async with Worker(
            unbound,
            task_queue=fresh.task_queue(),
            workflows=[Slow],
            activities=[whose],
            activity_executor=pool,
            max_concurrent_activities=4,
            shared_state_manager=SharedStateManager.create_from_multiprocessing(state, poller),
        ):

            async def ask(tenant: str, number: int) -> tuple[str, str]:
                client = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=tenant)])
                result = await client.execute_workflow(
                    Slow.run, args=["whose", 0.0], id=f"{number}", task_queue=fresh.task_queue()
                )
                return tenant, result

            asked = [ask(tenant, number) for number in range(ROUNDS) for tenant in tenants]
            answers = await asyncio.gather(*asked)
    assert len(answers) == ROUNDS * 2
    assert [seen for tenant, seen in answers if seen != tenant] == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
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
