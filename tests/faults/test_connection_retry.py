"""Opening and keeping a connection while the server comes and goes."""

import asyncio
import re
import time
from datetime import timedelta

import pytest
from temporalio.client import Client

from orkestra.config import TemporalSettings
from orkestra.devserver import DevServer
from orkestra.devserver.server import free_port
from orkestra.errors import ConnectionClosedError, ConnectionFailedError
from orkestra.temporal.connection import open_connection
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENCE, PATIENTLY, until

LOGGER = "orkestra.temporal.connection"
LINE = re.compile(
    r"Attempt (\d+) to connect to Temporal at (\S+) failed, (\w+): .*; trying again in ([\d.]+) s"
)
LONGEST_WAIT = 3.0


def lines(caplog: pytest.LogCaptureFixture) -> list[re.Match[str] | None]:
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    return [LINE.fullmatch(message) for message in messages]


async def test_a_server_that_starts_later_is_reached(caplog):
    server = DevServer(port=free_port())
    settings = TemporalSettings(address=server.address, connect_deadline=PATIENTLY)
    opening = asyncio.create_task(open_connection(settings))
    await until(lambda: len(lines(caplog)) > 3)
    assert not opening.done()
    async with server:
        connection = await opening
        assert await connection.service_client.check_health()
        await connection.close()
    attempts = [line for line in lines(caplog) if line is not None]
    assert len(attempts) == len(lines(caplog))
    assert [int(line[1]) for line in attempts] == list(range(1, len(attempts) + 1))
    assert {line[2] for line in attempts} == {server.address}
    assert {line[3] for line in attempts} <= {"refused", "unavailable", "reset"}
    waits = [float(line[4]) for line in attempts]
    assert all(wait <= min(LONGEST_WAIT, 0.1 * 2**n) for n, wait in enumerate(waits, start=1))


async def test_waits_are_random_from_nothing_up_to_a_growing_limit(caplog):
    settings = TemporalSettings(
        address=f"127.0.0.1:{free_port()}", connect_deadline=timedelta(seconds=4)
    )
    errors = await asyncio.gather(
        *(open_connection(settings) for _ in range(20)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {ConnectionFailedError}
    waits: dict[int, list[float]] = {}
    for line in lines(caplog):
        if line is not None:
            waits.setdefault(int(line[1]), []).append(float(line[4]))
    for number in (1, 2, 3):
        limit = 0.1 * 2**number
        assert max(waits[number]) <= limit
        assert min(waits[number]) < limit / 2
        assert len(set(waits[number])) > 5
    assert max(waits[3]) > max(waits[1])


async def test_the_deadline_holds_and_each_attempt_is_one_line(caplog):
    settings = TemporalSettings(
        address=f"127.0.0.1:{free_port()}", connect_deadline=timedelta(seconds=2)
    )
    started = time.monotonic()
    with pytest.raises(ConnectionFailedError) as caught:
        await open_connection(settings)
    assert caught.value.elapsed <= timedelta(seconds=time.monotonic() - started) < PATIENTLY
    *retried, last = lines(caplog)
    assert all(retried)
    assert last is None
    assert caplog.records[-1].getMessage().endswith("giving up")
    assert caught.value.attempts == len(caplog.records)


async def test_closing_works_while_the_server_is_dead(fresh):
    server = DevServer(port=free_port())
    await server.start()
    try:
        sockets = Sockets(server.address)
        connection = await open_connection(TemporalSettings(address=server.address))
        client = Client(connection.service_client)
        handle = await client.start_workflow(
            "nobody", id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.2)
    finally:
        await server.kill()
    await asyncio.sleep(0.2)
    async with asyncio.timeout(PATIENCE):
        await connection.close()
    with pytest.raises(ConnectionClosedError):
        await waiting
    assert await sockets.are_gone()


async def test_a_call_gives_up_at_its_retry_deadline_and_is_retried_by_the_sdk_alone(fresh):
    server = DevServer(port=free_port())
    await server.start()
    try:
        settings = TemporalSettings(
            address=server.address, call_retry_deadline=timedelta(seconds=1)
        )
        connection = await open_connection(settings)
    finally:
        await server.kill()
    started = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)refused|connect|unavailable|transport"):
        await Client(connection.service_client).count_workflows("")
    assert time.monotonic() - started < 9  # the default is ten seconds
    await connection.close()
