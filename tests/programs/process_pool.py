"""Tenants seen in a pool's processes: `process_pool.py ADDRESS QUEUE METHOD ROUNDS TENANT…`.

The pool's processes are made before anything else starts a thread: a fork of a process that has
threads may wait for ever for a lock that one of them held.
"""

import asyncio
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from temporalio.client import Client
from temporalio.worker import SharedStateManager, Worker

from orkestra import OrkestraPlugin, tenant_scope
from tests.workflows.slow import Slow, whose


async def main(
    address: str,
    queue: str,
    pool: ProcessPoolExecutor,
    manager: SharedStateManager,
    asked: list[str],
) -> list[tuple[str, str]]:
    """Run the activity for each of the tenants asked, all at once; return what each saw."""
    unbound = await Client.connect(address, plugins=[OrkestraPlugin()])

    async def ask(tenant: str, number: int) -> tuple[str, str]:
        client = await Client.connect(address, plugins=[OrkestraPlugin(tenant=tenant)])
        seen: str = await client.execute_workflow(
            Slow.run, args=["whose", 0.0], id=f"{number}", task_queue=queue
        )
        return tenant, seen

    async with Worker(
        unbound,
        task_queue=queue,
        workflows=[Slow],
        activities=[whose],
        activity_executor=pool,
        max_concurrent_activities=4,
        shared_state_manager=manager,
    ):
        return await asyncio.gather(*(ask(tenant, n) for n, tenant in enumerate(asked)))


if __name__ == "__main__":
    address, queue, method, rounds, *tenants = sys.argv[1:]
    context = multiprocessing.get_context(method)
    with (
        context.Manager() as state,
        ProcessPoolExecutor(4, mp_context=context) as pool,
        ThreadPoolExecutor(1) as poller,
    ):
        with tenant_scope("whoever-started-the-pool"):
            assert list(pool.map(abs, range(4))) == list(range(4))
        manager = SharedStateManager.create_from_multiprocessing(state, poller)
        asked = tenants * int(rounds)
        json.dump(asyncio.run(main(address, queue, pool, manager, asked)), sys.stdout)
