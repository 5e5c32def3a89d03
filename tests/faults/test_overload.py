"""Thousands of calls for a service that answers none: a clear error, and memory that is bounded."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import psutil
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orkestra import (
    ConnectionOverloadedError,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
)
from orkestra.temporal.connection import ConnectionState
from tests.faults.proxy import Proxy
from tests.support.waiting import until

LIMIT = 300
MEGABYTE = 1 << 20


@pytest.fixture
async def gateway(dev_server) -> AsyncIterator[Proxy]:
    async with Proxy(dev_server.address) as proxy:
        yield proxy


@pytest.fixture
async def manager(gateway) -> AsyncIterator[TemporalConnectionManager]:
    temporal = TemporalSettings(
        address=gateway.address,
        max_waiting_calls=LIMIT,
        call_retry_deadline=timedelta(seconds=1),
    )
    async with TemporalConnectionManager(OrkestraConfig(temporal=temporal)) as made:
        yield made


@pytest.fixture
async def client(manager, fresh) -> Client:
    return await manager.get_client(tenant=fresh.tenant())


async def ask(client: Client) -> None:
    try:
        await client.get_workflow_handle("absent").describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def test_more_calls_than_may_wait_are_refused_while_the_service_is_silent(
    manager, client, gateway
):
    gateway.swallow()
    waiting = [asyncio.create_task(ask(client)) for _ in range(LIMIT)]
    await until(lambda: manager.statistics.state is ConnectionState.SILENT)
    assert manager.statistics.calls_waiting == LIMIT
    for _ in range(10):
        with pytest.raises(ConnectionOverloadedError, match=f"{LIMIT} calls wait for '127.0.0.1"):
            await ask(client)
    assert manager.statistics.refused_calls == 10
    gateway.recover()
    await asyncio.gather(*waiting)
    await ask(client)
    assert manager.statistics.state is ConnectionState.OPEN
    assert manager.statistics.calls_waiting == 0


async def test_a_burst_that_the_service_works_off_is_not_refused(dev_server, fresh):
    temporal = TemporalSettings(
        address=dev_server.address,
        max_waiting_calls=LIMIT,
        call_retry_deadline=timedelta(seconds=60),
    )
    async with TemporalConnectionManager(OrkestraConfig(temporal=temporal)) as manager:
        client = await manager.get_client(tenant=fresh.tenant())
        await asyncio.gather(*(ask(client) for _ in range(3 * LIMIT)))
        assert manager.statistics.refused_calls == 0


async def test_calls_that_wait_for_events_do_not_count(manager, client, gateway, fresh):
    handle = await client.start_workflow("nobody", id="one", task_queue=fresh.task_queue("idle"))
    waiting = [asyncio.create_task(handle.result()) for _ in range(LIMIT + 10)]
    await until(lambda: manager.statistics.calls_in_flight == LIMIT + 10)
    await asyncio.sleep(0.6)  # longer than half of call_retry_deadline
    await ask(client)
    assert manager.statistics.refused_calls == 0
    await handle.terminate()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_memory_stays_within_bounds_however_many_calls_there_are(manager, client, gateway):
    process = psutil.Process()
    gateway.swallow()
    waiting = [asyncio.create_task(ask(client)) for _ in range(LIMIT)]
    await until(lambda: manager.statistics.state is ConnectionState.SILENT)
    before = process.memory_info().rss
    ends: Counter[str] = Counter()
    for _ in range(100):
        outcomes = await asyncio.gather(*(ask(client) for _ in range(100)), return_exceptions=True)
        ends.update(type(outcome).__name__ for outcome in outcomes)
    assert ends == {"ConnectionOverloadedError": 10_000}
    assert process.memory_info().rss - before < 30 * MEGABYTE
    assert manager.statistics.calls_in_flight == LIMIT
    gateway.recover()
    await asyncio.gather(*waiting, return_exceptions=True)
