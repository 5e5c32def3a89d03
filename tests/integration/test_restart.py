"""Workers that fail are restarted if the settings say so, and logged once in any case."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Plugin, Worker

from orkestra import (
    OrkestraConfig,
    OrkestraPlugin,
    TemporalConnectionManager,
    TemporalSettings,
    WorkerExit,
    WorkerSettings,
    create_worker,
    run_worker,
    start_workflow,
)
from orkestra.devserver import DevServer
from orkestra.temporal.run_worker import supervisor
from tests.support.waiting import PATIENCE, until
from tests.workflows.slow import Slow, obeys


class Licence(Plugin):
    """Lets a worker run until its licence is lost, so many times."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.lost = asyncio.Event()
        self.runs = 0

    def configure_worker(self, config: Any) -> Any:
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        self.runs += 1
        running = asyncio.ensure_future(next(worker))
        if self.runs > self.losses:
            return await running
        await self.lost.wait()
        self.lost.clear()
        running.cancel()
        await asyncio.wait({running})
        raise RuntimeError("the licence is lost")

    def configure_replayer(self, config: Any) -> Any:
        return config

    def run_replayer(self, replayer: Any, histories: Any, next: Any) -> Any:
        return next(replayer, histories)


def configured(address: str, **worker: Any) -> OrkestraConfig:
    return OrkestraConfig(
        temporal=TemporalSettings(address=address, call_retry_deadline="3s"),
        worker=WorkerSettings(restart_longest_pause=0.2, **worker),
    )


@pytest.mark.parametrize("restart", [True, False])
async def test_a_worker_that_fails_is_logged_once_and_restarted_only_if_configured(
    dev_server, fresh, caplog, restart
):
    caplog.set_level(logging.INFO)
    licence, queue = Licence(losses=2), fresh.task_queue()
    config = configured(dev_server.address, restart=restart)
    async with TemporalConnectionManager(config) as manager:
        made = await create_worker(
            task_queue=queue,
            workflows=[Slow],
            activities=[obeys],
            manager=manager,
            plugins=[licence],
        )
        running = asyncio.create_task(run_worker(made))
        await until(lambda: licence.runs == 1)
        licence.lost.set()
        if restart:
            await until(lambda: licence.runs == 2)
            licence.lost.set()
            await until(lambda: licence.runs == 3)
            client = await manager.get_client(tenant=fresh.tenant())
            handle = await start_workflow(client, Slow.run, "obeys", 0.0, task_queue=queue)
            assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"
            os.kill(os.getpid(), signal.SIGTERM)
        code = await asyncio.wait_for(running, PATIENCE)
    assert code == (WorkerExit.DRAINED if restart else WorkerExit.FAILED)
    failures = [r for r in caplog.records if r.exc_info and r.levelno >= logging.ERROR]
    assert len(failures) == (2 if restart else 1)
    for record in failures:
        assert queue in record.message
        assert record.exc_info
        assert str(record.exc_info[1]) == "the licence is lost"
        assert ("restarting in 0.2 s" in record.message) is restart


async def test_the_pause_before_a_restart_grows_until_a_run_was_steady(
    dev_server, fresh, caplog, monkeypatch
):
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_STEADY_RUN_SECONDS", 2 * PATIENCE)
    licence = Licence(losses=4)
    async with TemporalConnectionManager(configured(dev_server.address, restart=True)) as manager:
        created = await create_worker(
            task_queue=fresh.task_queue(), activities=[obeys], manager=manager, plugins=[licence]
        )
        running = asyncio.create_task(run_worker(created))
        for run in (1, 2, 3, 4):
            await until(lambda run=run: licence.runs == run)
            if run == 4:
                monkeypatch.setattr(supervisor, "_STEADY_RUN_SECONDS", 0.0)
            licence.lost.set()
        await until(lambda: licence.runs == 5)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, PATIENCE)
    pauses = re.findall(r"restarting in (\S+) s", caplog.text)
    assert pauses == ["0.05", "0.1", "0.2", "0.05"]


async def test_a_worker_that_cannot_begin_while_the_server_is_away_begins_when_it_is_back(
    tmp_path, fresh, caplog
):
    queue = fresh.task_queue()
    licence = Licence(losses=1)
    async with DevServer(db_filename=tmp_path / "temporal.db") as server:
        config = configured(server.address, restart=True)
        async with TemporalConnectionManager(config) as manager:
            made = await create_worker(
                task_queue=queue,
                workflows=[Slow],
                activities=[obeys],
                manager=manager,
                plugins=[licence],
            )
            running = asyncio.create_task(run_worker(made))
            await until(lambda: licence.runs == 1)
            await server.kill()
            licence.lost.set()
            await until(lambda: "Namespace" in caplog.text or licence.runs > 2)
            await server.start()
            # A client of its own, because the worker's calls are not retried for long.
            plugins = [OrkestraPlugin(tenant=fresh.tenant())]
            client = await Client.connect(server.address, plugins=plugins)
            handle = await start_workflow(client, Slow.run, "obeys", 0.0, task_queue=queue)
            assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"
            os.kill(os.getpid(), signal.SIGTERM)
            assert await asyncio.wait_for(running, PATIENCE) == WorkerExit.DRAINED


async def test_a_worker_that_waits_for_its_restart_stops_on_a_signal(dev_server, fresh):
    licence = Licence(losses=1)
    config = OrkestraConfig(
        temporal=TemporalSettings(address=dev_server.address),
        worker=WorkerSettings(restart=True, restart_longest_pause=60),
    )
    async with TemporalConnectionManager(config) as manager:
        made = await create_worker(
            task_queue=fresh.task_queue(), workflows=[Slow], manager=manager, plugins=[licence]
        )
        running = asyncio.create_task(run_worker(made))
        await until(lambda: licence.runs == 1)
        licence.lost.set()
        await until(lambda: not licence.lost.is_set())
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, PATIENCE) == WorkerExit.DRAINED
    assert licence.runs == 1


async def test_a_connection_can_be_closed_after_a_worker_failed_before_it_began(dev_server, fresh):
    licence = Licence(losses=1)
    licence.lost.set()
    config = configured(dev_server.address, restart=True)
    async with TemporalConnectionManager(config) as manager:
        made = await create_worker(
            task_queue=fresh.task_queue(), workflows=[Slow], manager=manager, plugins=[licence]
        )
        running = asyncio.create_task(run_worker(made))
        await until(lambda: licence.runs == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, PATIENCE) == WorkerExit.DRAINED
    assert not made.is_running
