"""SIGTERM while a hundred activities are in flight: who finishes, and who is done elsewhere."""

import asyncio
import time
from collections import Counter

from temporalio.client import Client

from orkestra import OrkestraPlugin
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import measured, serving
from tests.workflows.ledger import Persistent

MODULE = "tests.workflows.ledger"
SHORT = {("first_obeys", 1.5): 50}
FOREVER = 10 * PATIENCE
LONG = {
    ("first_obeys", FOREVER): 30,
    ("first_ignores", FOREVER): 10,
    ("first_sits_in_a_thread", FOREVER): 10,
}


async def test_sigterm_with_a_hundred_activities_in_flight(dev_server, raw_client, fresh):
    queue = fresh.task_queue()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    first = {"graceful_shutdown_timeout": 6, "probes_address": "127.0.0.1:0", "module": MODULE}
    async with serving(dev_server.address, queue, **first) as worker:
        await worker.becomes("/readyz", 200)
        handles = {}

        async def start(work: dict[tuple[str, float], int]) -> None:
            async def start_one(name: str, seconds: float, number: int) -> None:
                handles[name, seconds, number] = await acme.start_workflow(
                    Persistent.run,
                    args=[name, seconds],
                    id=f"{name}-{seconds}-{number}",
                    task_queue=queue,
                )

            await asyncio.gather(
                *(start_one(*kind, number) for kind, many in work.items() for number in range(many))
            )

        async def all_are_in_flight() -> bool:
            _, text = await worker.probe("/metrics")
            used = [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("temporal_worker_task_slots_used") and '"ActivityWorker"' in line
            ]
            return sum(used) >= sum(LONG.values())

        # A first attempt that began on the other worker would hold up its end, too.
        await start(LONG)
        await until(all_are_in_flight)
        await start(SHORT)
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 124
        measured("ended after s", round(time.monotonic() - began, 1))
    async with serving(dev_server.address, queue, module=MODULE) as other:
        attempts: Counter[tuple[str, float, int]] = Counter()
        for (name, seconds, _), handle in handles.items():
            attempts[name, seconds, await asyncio.wait_for(handle.result(), PATIENCE)] += 1
        measured("attempts", str(dict(attempts)))
        assert sum(attempts.values()) == 100
        assert attempts["first_obeys", FOREVER, 1] == 0
        assert attempts["first_obeys", 1.5, 1] >= 40
        assert attempts["first_ignores", FOREVER, 1] == 0
        assert attempts["first_sits_in_a_thread", FOREVER, 1] == 0
        other.process.terminate()
        assert await other.end() == 0
