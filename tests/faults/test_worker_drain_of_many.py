"""SIGTERM while a hundred activities are in flight: who finishes, and who is done elsewhere."""

import asyncio
import time
from collections import Counter

import pytest
from temporalio.client import Client

from orkestra import OrkestraPlugin
from tests.support.worker_process import measured, serving
from tests.workflows.ledger import Persistent

MODULE = "tests.workflows.ledger"
SHORT = {("first_obeys", 1.5): 50}
LONG = {
    ("first_obeys", 60.0): 30,
    ("first_ignores", 60.0): 10,
    ("first_sits_in_a_thread", 60.0): 10,
}


@pytest.mark.timeout(120)
async def test_sigterm_with_a_hundred_activities_in_flight(dev_server, raw_client, fresh):
    queue = fresh.task_queue()
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    first = {"graceful_shutdown_timeout": 6, "probes_address": "127.0.0.1:0", "module": MODULE}
    async with serving(dev_server.address, queue, **first) as worker:
        await worker.becomes("/readyz", 200)
        handles = {}

        async def start(work: dict[tuple[str, float], int]) -> None:
            for (name, seconds), count in work.items():
                for number in range(count):
                    handles[name, seconds, number] = await acme.start_workflow(
                        Persistent.run,
                        args=[name, seconds],
                        id=f"{name}-{seconds}-{number}",
                        task_queue=queue,
                    )

        async def in_use() -> float:
            _, text = await worker.probe("/metrics")
            used = [
                line
                for line in text.splitlines()
                if line.startswith("temporal_worker_task_slots_used") and "ActivityW" in line
            ]
            return float(used[0].rpartition(" ")[2]) if used else 0.0

        # A first attempt that began on the other worker would hold up its end, too.
        await start(LONG)
        while await in_use() < sum(LONG.values()):
            await asyncio.sleep(0.1)
        await start(SHORT)
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 124
        took = time.monotonic() - began
        measured("ended after s", round(took, 1))
        # Grace, cancellation and the flush of traces; and no wait for threads.
        assert took < 6 + 1 + 5 + 20
    async with serving(dev_server.address, queue, module=MODULE) as other:
        attempts: Counter[tuple[str, float, int]] = Counter()
        for (name, seconds, _), handle in handles.items():
            attempts[name, seconds, await asyncio.wait_for(handle.result(), 50)] += 1
        measured("attempts", str(dict(attempts)))
        assert sum(attempts.values()) == 100
        assert attempts["first_obeys", 60.0, 1] == 0
        assert attempts["first_obeys", 1.5, 1] >= 40
        assert attempts["first_ignores", 60.0, 1] == 0
        assert attempts["first_sits_in_a_thread", 60.0, 1] == 0
        other.process.terminate()
        assert await other.end() == 0
