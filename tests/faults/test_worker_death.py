"""Workers and servers that are killed: nothing is lost, and nothing has its effect twice."""

import asyncio
import os
import time

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from orkestra import OrkestraPlugin
from orkestra.devserver import DevServer
from tests.support.ledger import Ledger
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import measured, serving
from tests.workflows.ledger import STEPS, WriteRows

MODULE = "tests.workflows.ledger"
MANY = 500 if os.environ.get("ORKESTRA_SOAK") else 60


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


async def start(client: Client, queue: str, count: int, seconds: float) -> list[WorkflowHandle]:
    room = asyncio.Semaphore(20)

    async def one(number: int) -> WorkflowHandle:
        async with room:
            return await client.start_workflow(
                WriteRows.run, seconds, id=f"{queue}-{number}", task_queue=queue
            )

    return await asyncio.gather(*map(one, range(count)))


async def results(handles: list[WorkflowHandle]) -> list[int]:
    return await asyncio.wait_for(
        asyncio.gather(*(each.result() for each in handles)), 2 * PATIENCE
    )


async def test_a_worker_killed_in_the_middle_of_its_work_is_replaced_by_the_other(
    dev_server, raw_client, fresh, ledger
):
    queue, count = fresh.task_queue(), 30
    acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
    options = {
        "module": MODULE,
        "environment": ledger.environment,
        "probes_address": "127.0.0.1:0",
        "sticky_queue_schedule_to_start_timeout": "2s",
    }
    async with (
        serving(dev_server.address, queue, **options) as doomed,
        serving(dev_server.address, queue, **options) as other,
    ):
        await asyncio.gather(doomed.becomes("/readyz", 200), other.becomes("/readyz", 200))
        handles = await start(acme, queue, count, 0.5)
        await until(lambda: ledger.count("effects") > count // 3)
        doomed.process.kill()
        killed = time.monotonic()
        before = ledger.count("effects")
        await until(lambda: ledger.count("effects") > before)
        measured("work went on after s", round(time.monotonic() - killed, 2))
        assert await results(handles) == [STEPS] * count
        measured("all done after s", round(time.monotonic() - killed, 2))
        measured("activities that ran again", ledger.count("runs") - count * STEPS)
        assert ledger.count("effects") == count * STEPS
        assert ledger.count("runs") >= count * STEPS
        other.process.terminate()
        assert await other.end() == 0


@pytest.mark.timeout(400)
async def test_killing_the_server_under_load_loses_nothing_and_restarts_no_worker(
    tmp_path, fresh, ledger
):
    queue = fresh.task_queue()
    async with DevServer(db_filename=tmp_path / "temporal.db") as server:
        plugin = OrkestraPlugin(tenant=fresh.tenant())
        acme = await Client.connect(server.address, plugins=[plugin])
        async with serving(
            server.address,
            queue,
            module=MODULE,
            environment=ledger.environment,
            probes_address="127.0.0.1:0",
        ) as worker:
            await worker.becomes("/readyz", 200)
            handles = await start(acme, queue, MANY, 0.2)
            await until(lambda: ledger.count("effects") > MANY // 3)
            await server.kill()
            killed = time.monotonic()
            await worker.becomes("/readyz", 503, "does not answer")
            noticed = time.monotonic() - killed
            await server.start()
            for handle in handles:
                assert await asyncio.wait_for(patient_result(handle), 300) == STEPS
            measured("noticed after s", round(noticed, 2))
            measured("all done after s", round(time.monotonic() - killed, 2))
            measured("activities that ran again", ledger.count("runs") - MANY * STEPS)
            assert ledger.count("effects") == MANY * STEPS
            assert ledger.count("runs") >= MANY * STEPS
            await worker.becomes("/readyz", 200)
            worker.process.terminate()
            assert await worker.end() == 0


async def patient_result(handle: WorkflowHandle) -> int:
    """The result, from a client of the SDK that does not try for long."""
    while True:
        try:
            return await handle.result()
        except RPCError:
            await asyncio.sleep(0.2)
