"""The embedded server's disk is full for a while."""

import asyncio
import os
import resource
import sys
from datetime import timedelta

import psutil
import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from orkestra import OrkestraPlugin
from orkestra.devserver import DevServer
from tests.support.processes import child_that
from tests.support.waiting import PATIENCE
from tests.support.worker_process import serving
from tests.workflows.slow import Slow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit() is Linux's")


def server_of(address: str) -> psutil.Process:
    port = int(address.rpartition(":")[2])

    def listens(process: psutil.Process) -> bool:
        sockets = process.net_connections("tcp")
        return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in sockets)

    return child_that(listens, of=os.getpid())


async def fill(client: Client, queue: str) -> RPCError:
    """Start workflows until one cannot be written."""
    for number in range(200):
        try:
            await client.start_workflow(
                "Big",
                "x" * 50_000,
                id=f"big{number}",
                task_queue=f"{queue}-nobody",
                rpc_timeout=timedelta(seconds=2),
            )
        except RPCError as error:
            return error
    raise AssertionError("the disk is not full")


async def test_a_worker_waits_out_a_full_disk_of_the_server_and_its_work_goes_on(tmp_path, fresh):
    queue, database = fresh.task_queue(), tmp_path / "temporal.db"
    async with (
        DevServer(db_filename=database, ui=False) as server,
        serving(server.address, queue, probes_address="127.0.0.1:0") as worker,
    ):
        await worker.becomes("/readyz", 200)
        raw = await Client.connect(server.address)
        acme = await Client.connect(server.address, plugins=[OrkestraPlugin(tenant="acme")])
        handle = await acme.start_workflow(
            Slow.run, args=["obeys", 1.0], id="during", task_queue=queue
        )
        pid = server_of(server.address).pid
        size, unlimited = (await asyncio.to_thread(database.stat)).st_size, resource.RLIM_INFINITY
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, unlimited))
        error = await fill(raw, queue)
        assert error.status.name in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED")
        # The server answers all the same, and nothing would be won by killing the worker.
        assert (await worker.probe("/livez"))[0] == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"
        await worker.becomes("/readyz", 200)
        later = await acme.start_workflow(
            Slow.run, args=["obeys", 0.0], id="after", task_queue=queue
        )
        assert await asyncio.wait_for(later.result(), PATIENCE) == "finished"
        assert pid == server_of(server.address).pid
        worker.process.terminate()
        assert await worker.end() == 0
