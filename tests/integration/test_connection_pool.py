"""Several connections of one manager, what it counts, and workers that never ran."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.service import RPCError

from orkestra import (
    ConnectionClosedError,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    create_worker,
)
from orkestra.temporal.connection import ConnectionState
from tests.support.listeners import Listener, proxy_to
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENCE, until
from tests.workflows.gated import Gated, Steps


@pytest.fixture
async def gateway(dev_server) -> AsyncIterator[Listener]:
    async with proxy_to(dev_server.address) as proxy:
        yield proxy


def manager_for(address: str, **temporal: Any) -> TemporalConnectionManager:
    settings = TemporalSettings(address=address, **temporal)
    return TemporalConnectionManager(OrkestraConfig(temporal=settings))


async def test_a_pool_opens_as_many_connections_as_it_has_and_clients_get_them_in_turn(gateway):
    sockets = Sockets(gateway.address)
    async with manager_for(gateway.address, pool_size=3) as manager:
        first = await manager.get_client()
        assert sockets.count == 1
        clients = [first, *await asyncio.gather(*(manager.get_client() for _ in range(29)))]
        connections = [client.service_client.connection for client in clients]
        assert {connections.count(each) for each in connections} == {10}
        assert sockets.count == gateway.accepted == 3
        assert manager.statistics.connections == 3
        await connections[1].close()
        again = [await manager.get_client() for _ in range(3)]
        assert all([await client.service_client.check_health() for client in again])
        assert gateway.accepted == 4
    assert await sockets.are_gone()


async def test_statistics_say_what_the_connections_do(dev_server, fresh):
    manager = manager_for(dev_server.address)
    assert manager.statistics.state is ConnectionState.UNOPENED
    client = await manager.get_client(tenant=fresh.tenant())
    before = manager.statistics
    assert (before.state, before.connections, before.attempts) == (ConnectionState.OPEN, 1, 1)
    assert (before.calls, before.calls_in_flight, before.failed_attempts) == (0, 0, 0)
    handle = await client.start_workflow("nobody", id="one", task_queue=fresh.task_queue("idle"))
    with pytest.raises(RPCError):
        await client.get_workflow_handle("absent").describe()
    waiting = asyncio.create_task(handle.result())
    await until(lambda: manager.statistics.calls_in_flight == 1)
    during = manager.statistics
    assert (during.calls, during.calls_waiting, during.failed_calls) == (2, 0, 0)
    await manager.close()
    with pytest.raises(ConnectionClosedError):
        await waiting
    after = manager.statistics
    assert (after.state, after.connections, after.calls_in_flight) == (ConnectionState.CLOSED, 0, 0)


async def test_a_worker_that_never_ran_does_not_keep_the_socket(gateway, fresh):
    sockets, steps = Sockets(gateway.address), Steps()
    manager = manager_for(gateway.address)
    workers = [
        await create_worker(
            task_queue=fresh.task_queue(f"queue-{n}"),
            workflows=[Gated] if n != 1 else [],
            activities=[steps.take_step] if n != 2 else [],
            manager=manager,
        )
        for n in range(3)
    ]
    assert sockets.count == 1
    await manager.close()
    await manager.close()
    assert await sockets.are_gone()
    for worker in workers:
        async with asyncio.timeout(PATIENCE):
            await worker.shutdown()
        with pytest.raises(ConnectionClosedError):
            await worker.run()


async def test_a_worker_that_never_ran_does_not_hold_up_closing_while_the_server_is_away(
    dev_server, fresh
):
    async with proxy_to(dev_server.address) as gateway:
        sockets, steps = Sockets(gateway.address), Steps()
        manager = manager_for(gateway.address)
        worker = await create_worker(
            task_queue=fresh.task_queue(), activities=[steps.take_step], manager=manager
        )
    async with asyncio.timeout(PATIENCE):
        await manager.close()
    assert await sockets.are_gone()
    assert not worker.is_running


async def test_a_worker_that_failed_to_start_does_not_keep_the_socket(gateway, fresh):
    sockets, steps = Sockets(gateway.address), Steps()
    async with manager_for(gateway.address, namespace="absent") as manager:
        worker = await create_worker(
            task_queue=fresh.task_queue(), activities=[steps.take_step], manager=manager
        )
        with pytest.raises(RuntimeError, match="absent"):
            await worker.run()
    assert await sockets.are_gone()


async def test_a_worker_that_has_run_is_left_as_it_is(gateway, fresh):
    sockets, steps = Sockets(gateway.address), Steps()
    async with manager_for(gateway.address) as manager:
        worker = await create_worker(
            task_queue=fresh.task_queue(), activities=[steps.take_step], manager=manager
        )
        async with worker:
            await until(lambda: manager.statistics.workers == 1)
        assert manager.statistics.workers == 0
    assert await sockets.are_gone()
