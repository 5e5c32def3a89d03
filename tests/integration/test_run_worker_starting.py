"""What becomes of a worker's process before it has done anything."""

import asyncio

from orkestra.devserver import DevServer
from tests.support.waiting import PATIENCE
from tests.support.worker_process import serving


async def test_a_missing_namespace_fails_the_worker_at_once_with_an_explanation(dev_server, fresh):
    async with serving(dev_server.address, fresh.task_queue(), "nowhere") as worker:
        assert await worker.end() == 2
    assert "nowhere" in worker.log
    assert worker.log.count("ERROR") == 1


async def test_a_signal_during_the_start_up_checks_stops_the_worker_in_order(dev_server, fresh):
    async with serving(dev_server.address, fresh.task_queue()) as worker:
        await asyncio.sleep(0.02)
        worker.process.terminate()
        assert await worker.end() == 0
    assert "Traceback" not in worker.log


async def test_a_missing_search_attribute_fails_the_worker_at_once_with_an_explanation(fresh):
    async with (
        DevServer(search_attribute="another", ui=False) as server,
        serving(server.address, fresh.task_queue()) as worker,
    ):
        assert await worker.end() == 2
    assert "tenantId" in worker.log
    assert "search-attributes ensure" in worker.log
    assert worker.log.count("ERROR") == 1


async def test_an_idle_worker_stops_at_once(dev_server, fresh):
    async with serving(
        dev_server.address,
        fresh.task_queue(),
        probes_address="127.0.0.1:0",
        graceful_shutdown_timeout=2 * PATIENCE,
    ) as worker:
        await worker.becomes("/readyz", 200)
        worker.process.terminate()
        assert await worker.end() == 0
    assert "Traceback" not in worker.log
