"""One connection used from where it was not opened: other loops, threads and processes."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from temporalio.client import Client

from orkestra import ConnectionClosedError, OrkestraConfig, TemporalConnectionManager
from orkestra.config import TemporalSettings
from orkestra.temporal.connection import open_connection
from tests.support.listeners import silent
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENCE, until

FORKING = Path(__file__).parents[1] / "programs" / "forking.py"


def manager_for(address: str) -> TemporalConnectionManager:
    return TemporalConnectionManager(OrkestraConfig(temporal=TemporalSettings(address=address)))


async def elsewhere(main, *args):
    """Run a coroutine function to its end in another thread, on a loop of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(main(*args)))


async def test_a_second_event_loop_uses_the_same_connection(dev_server):
    sockets = Sockets(dev_server.address)
    async with manager_for(dev_server.address) as manager:
        client = await manager.get_client()

        async def main() -> int:
            other = await manager.get_client(namespace="second")
            assert await client.service_client.check_health()
            assert await other.service_client.check_health()
            return sockets.count

        assert await elsewhere(main) == 1
        assert await asyncio.gather(elsewhere(main), elsewhere(main)) == [1, 1]
        assert await client.service_client.check_health()
    assert await sockets.are_gone()


async def test_event_loops_that_connect_at_the_same_time_share_one_connection(dev_server):
    sockets = Sockets(dev_server.address)
    manager = manager_for(dev_server.address)
    barrier = threading.Barrier(4)

    async def main() -> Client:
        await asyncio.to_thread(barrier.wait)
        client = await manager.get_client()
        assert await client.service_client.check_health()
        return client

    clients = await asyncio.gather(*(elsewhere(main) for _ in range(4)))
    assert len({id(client.service_client.connection) for client in clients}) == 1
    assert sockets.count == 1
    await manager.close()
    assert await sockets.are_gone()


async def test_closing_ends_the_calls_of_other_loops(dev_server, fresh):
    sockets = Sockets(dev_server.address)
    connection = await open_connection(TemporalSettings(address=dev_server.address))
    client = Client(connection.service_client)
    handle = await client.start_workflow(
        "nobody", id=fresh.workflow_id(), task_queue=fresh.task_queue()
    )

    async def main() -> str:
        with pytest.raises(ConnectionClosedError):
            await handle.result()
        await asyncio.sleep(0)
        return "closed"

    waiting = asyncio.create_task(elsewhere(main))
    await asyncio.sleep(0.3)
    await connection.close()
    assert await waiting == "closed"
    assert await sockets.are_gone()


async def test_closing_ends_the_openings_of_other_loops():
    async with silent() as server:
        manager = manager_for(server.address)

        async def main() -> str:
            with pytest.raises(ConnectionClosedError):
                await manager.get_client()
            return "closed"

        waiting = asyncio.create_task(elsewhere(main))
        await until(lambda: server.accepted)
        await manager.close()
        assert await waiting == "closed"


async def test_a_loop_that_stopped_in_a_call_does_not_hold_up_closing(dev_server, fresh, caplog):
    connection = await open_connection(TemporalSettings(address=dev_server.address))
    client = Client(connection.service_client)
    handle = await client.start_workflow(
        "nobody", id=fresh.workflow_id(), task_queue=fresh.task_queue()
    )
    stopped = asyncio.new_event_loop()
    task = stopped.create_task(handle.result())
    await asyncio.to_thread(stopped.run_until_complete, asyncio.sleep(0.2))
    async with asyncio.timeout(PATIENCE):
        await connection.close()
    assert "event loop that does not run" in caplog.text
    with pytest.raises(ConnectionClosedError):  # and it ends as soon as its loop runs again
        await asyncio.to_thread(stopped.run_until_complete, task)
    stopped.close()


def test_managers_serve_one_asyncio_run_after_the_other(dev_server):
    sockets = Sockets(dev_server.address)
    manager = manager_for(dev_server.address)

    async def main() -> bool:
        client = await manager.get_client()
        return await client.service_client.check_health()

    assert asyncio.run(main())
    assert asyncio.run(main())
    assert sockets.count == 1
    asyncio.run(manager.close())


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        ("client", "ConnectionClosedError: the connection to {address} was opened by process"),
        ("manager", "ConnectionClosedError: the connection to {address} was opened by process"),
        ("opening", "ConnectionFailedError: cannot connect to Temporal at {address}: Temporal's"),
        ("runtime", "healthy"),
        ("unopened", "healthy"),
        ("close", "closed"),
    ],
)
async def test_a_forked_child_works_or_gets_an_error_that_explains_the_fork(
    dev_server, case, answer
):
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", str(FORKING)),
        *(dev_server.address, case),
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await program.communicate()
    child, parent = output.decode().splitlines()
    assert child.startswith("child: " + answer.format(address=repr(dev_server.address)))
    assert parent == "parent: healthy"
    assert program.returncode == 0
