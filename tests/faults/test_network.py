"""Networks that are slow, lossy, silent or cut: what clients and workers see of it."""

import asyncio
import gc
import secrets
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psutil
import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from orkestra import (
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    create_worker,
    start_workflow,
)
from orkestra.devserver import DevServer
from orkestra.devserver.server import free_port
from orkestra.temporal.connection import ConnectionState
from tests.faults.proxy import Proxy
from tests.support.names import Fresh
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENTLY, until
from tests.workflows.gated import Gated, Steps

INTERVAL = timedelta(seconds=0.4)
# Of a server that answers: a busy machine makes it late, and that must not look like silence.
SILENCE = timedelta(seconds=1.5)
BRIEF = {"call_retry_deadline": timedelta(seconds=1)}
WATCHFUL = {"keep_alive_interval": INTERVAL, "keep_alive_timeout": SILENCE}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[DevServer]:
    """A server that bears pings as often as these tests send them."""
    async with DevServer(dynamic_config={"frontend.keepAliveMinTime": "10ms"}) as started:
        yield started


@pytest.fixture
async def network(server) -> AsyncIterator[Proxy]:
    async with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
async def manager(network) -> AsyncIterator[TemporalConnectionManager]:
    async with manager_for(network.address, call_retry_deadline=timedelta(seconds=30)) as made:
        yield made


@pytest.fixture
async def client(manager, fresh) -> Client:
    return await manager.get_client(tenant=fresh.tenant())


@pytest.fixture
async def watchful(network) -> AsyncIterator[TemporalConnectionManager]:
    async with manager_for(network.address, **WATCHFUL) as made:
        yield made


@pytest.fixture
async def watchful_client(watchful, fresh) -> Client:
    return await watchful.get_client(tenant=fresh.tenant())


def manager_for(address: str, **temporal: Any) -> TemporalConnectionManager:
    settings = TemporalSettings(address=address, **temporal)
    return TemporalConnectionManager(OrkestraConfig(temporal=settings))


async def ask(client: Client, **options: Any) -> None:
    """Make a call that the server answers, be it with not-found."""
    try:
        await client.get_workflow_handle("absent").describe(**options)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def is_answered(client: Client) -> bool:
    """Make a call that may be given up, because it is not retried for long."""
    try:
        await ask(client)
    except RPCError:
        return False
    return True


class Crowd:
    """A worker and workflows of its queue."""

    def __init__(self, manager: TemporalConnectionManager, client: Client, fresh: Fresh) -> None:
        self._manager = manager
        self._client = client
        self._queue = fresh.task_queue()
        self._steps = Steps()

    async def run(self, number: int) -> float:
        """Run so many workflows to their end, and return how many seconds that took."""
        worker = await create_worker(
            task_queue=self._queue,
            workflows=[Gated],
            activities=[self._steps.take_step],
            manager=self._manager,
        )
        async with worker:
            started = time.monotonic()
            results = await asyncio.gather(*(self._one(n) for n in range(number)))
            took = time.monotonic() - started
        assert results == [f"first {n}, second {n}" for n in range(number)]
        return took

    async def _one(self, number: int) -> str:
        # Tasks whose answers are lost are tried again after this.
        handle = await start_workflow(self._client, Gated.run, number, 3.0, task_queue=self._queue)
        await handle.signal(Gated.open)
        return await handle.result()


@pytest.fixture
def crowd(manager, client, fresh) -> Crowd:
    return Crowd(manager, client, fresh)


# Late, slow, lossy


async def test_latency_slows_work_down_and_does_no_more(crowd, network):
    sockets = Sockets(network.address)
    network.latency = 0.2
    took = await crowd.run(10)
    assert took > 6 * 0.2  # start, signal and result, there and back
    assert network.accepted == 1
    assert sockets.count <= 1


async def test_resets_of_one_in_a_hundred_pieces_lose_nothing(crowd, network):
    network.reset_rate = 0.01
    await crowd.run(30)
    assert network.resets > 0
    assert 1 < network.accepted <= 1 + network.resets  # both ways of one connection may be reset


async def test_a_bandwidth_that_is_cut_is_waited_for(client, network, fresh):
    await ask(client)
    network.bandwidth = 20_000
    argument = secrets.token_hex(20_000)  # compresses to a half
    started = time.monotonic()
    handle = await start_workflow(client, "nobody", argument, task_queue=fresh.task_queue("idle"))
    assert time.monotonic() - started > 0.9
    assert network.accepted == 1
    await handle.terminate()


async def test_connections_that_are_cut_again_and_again_leave_nothing_behind(client, network):
    process, sockets = psutil.Process(), Sockets(network.address)
    for cycle in range(60):
        if cycle == 20:
            gc.collect()
            memory, files = process.memory_info().rss, process.num_fds()
        network.cut()
        await asyncio.gather(*(ask(client) for _ in range(10)))
    await until(lambda: sockets.count <= 1)
    await until(lambda: process.num_fds() <= files + 3)
    assert process.memory_info().rss - memory < 20 * MEGABYTE
    assert network.accepted >= 60


# Silent


async def test_a_half_open_connection_is_noticed_by_its_pings_and_replaced(
    watchful_client, network
):
    await ask(watchful_client)
    network.forget()
    await ask(watchful_client)
    assert network.accepted == 2


async def test_a_half_open_connection_without_calls_is_noticed(watchful_client, network):
    sockets = Sockets(network.address)
    await ask(watchful_client)
    network.forget()
    await until(lambda: sockets.count == 0 or network.accepted == 2)
    await ask(watchful_client)
    assert network.accepted == 2


async def test_a_result_that_is_waited_for_survives_a_half_open_connection(
    watchful_client, network, watchful, fresh
):
    handle = await start_workflow(watchful_client, "nobody", task_queue=fresh.task_queue("idle"))
    waiting = asyncio.create_task(handle.result())
    await until(lambda: watchful.statistics.calls_in_flight == 1)
    network.forget()
    await until(lambda: network.accepted == 2)
    await handle.terminate()
    with pytest.raises(WorkflowFailureError):
        await waiting


async def test_a_result_that_is_waited_for_longer_than_calls_are_retried_survives_a_reset(
    network, fresh
):
    async with manager_for(network.address, **BRIEF) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        handle = await start_workflow(client, "nobody", task_queue=fresh.task_queue("idle"))
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(1.5)
        network.cut()
        await until(lambda: network.accepted == 2)
        await handle.terminate()
        with pytest.raises(WorkflowFailureError):
            await waiting


async def test_a_black_hole_shorter_than_the_retries_is_only_a_delay(watchful_client, network):
    await ask(watchful_client)
    network.swallow()
    asking = asyncio.gather(*(ask(watchful_client) for _ in range(20)))
    await asyncio.sleep((INTERVAL + SILENCE).total_seconds())
    assert not asking.done()
    network.recover()
    await asking


async def test_a_black_hole_that_outlasts_the_retries_is_unavailable_and_is_recovered_from(
    network, fresh
):
    sockets = Sockets(network.address)
    async with manager_for(network.address, **WATCHFUL, **BRIEF) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        network.swallow()
        calls = [asyncio.create_task(ask(client)) for _ in range(20)]
        await until(lambda: manager.statistics.state is ConnectionState.SILENT)
        for end in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(end, RPCError)
            assert end.status in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.CANCELLED}
        assert manager.statistics.failed_calls == 20
        network.recover()
        await until(lambda: is_answered(client))
        assert manager.statistics.state is ConnectionState.OPEN
        await until(lambda: sockets.count == 1)


# Gone and back


async def test_a_server_that_is_killed_and_comes_back_is_waited_for_by_all(tmp_path, fresh):
    server = DevServer(port=free_port(), db_filename=tmp_path / "temporal.db")
    steps, queue = Steps(), fresh.task_queue()
    await server.start()
    opened = TemporalConnectionManager(OrkestraConfig(temporal=at(server)))
    unopened = TemporalConnectionManager(OrkestraConfig(temporal=at(server)))
    try:
        client = await opened.get_client(tenant=fresh.tenant())
        worker = await create_worker(
            task_queue=queue, workflows=[Gated], activities=[steps.take_step], manager=opened
        )
        async with worker:
            handle = await start_workflow(client, Gated.run, 7, task_queue=queue)
            polling = asyncio.create_task(handle.result())
            await until(lambda: len(steps.done) == 1)
            await server.kill()
            signalling = asyncio.create_task(handle.signal(Gated.open))
            opening = asyncio.create_task(unopened.get_client(tenant=fresh.tenant()))
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in (polling, signalling, opening))
            await server.start()
            await signalling
            assert await polling == "first 7, second 7"
            found = (await opening).get_workflow_handle(handle.id)
            assert await found.result() == "first 7, second 7"
        assert [step for _, step in steps.done] == ["first 7", "second 7"]
        assert unopened.statistics.failed_attempts > 0
    finally:
        await opened.close()
        await unopened.close()
        await server.stop()


def at(server: DevServer) -> TemporalSettings:
    return TemporalSettings(
        address=server.address,
        call_retry_deadline=PATIENTLY,
        connect_deadline=PATIENTLY,
    )
