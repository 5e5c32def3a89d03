"""How a worker's process stops: signals, the grace period, the second signal, the exit code."""

import asyncio
import signal
import time
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from orkestra import OrkestraPlugin
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import HURRIED, is_at_work, serving
from tests.workflows.slow import Slow


@pytest.fixture
def acme(raw_client, fresh) -> Client:
    return Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])


async def in_flight(
    client: Client, queue: str, activity: str, seconds: float
) -> WorkflowHandle[Any, Any]:
    """Start a workflow and wait until its activity runs."""
    handle = await client.start_workflow(
        Slow.run, args=[activity, seconds], id=activity, task_queue=queue
    )
    await until(lambda: is_at_work(handle))
    return handle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_activity_that_ends_within_the_grace_period_completes(
    dev_server, acme, fresh, tmp_path, number
):
    release = tmp_path / "release"
    async with serving(
        dev_server.address,
        fresh.task_queue(),
        environment={"SLOW_UNTIL": str(release)},
        graceful_shutdown_timeout=2 * PATIENCE,
    ) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "waits_for_a_file", 0.05)
        worker.process.send_signal(number)
        await worker.says("polling stops")
        release.touch()
        assert await worker.end() == 0
    history = await handle.fetch_history()
    assert any(e.HasField("activity_task_completed_event_attributes") for e in history.events)
    assert f"{number.name}: polling stops" in worker.log
    assert "Traceback" not in worker.log
    await handle.terminate()


async def test_an_activity_that_outlives_the_grace_period_is_cancelled(dev_server, acme, fresh):
    async with serving(dev_server.address, fresh.task_queue()) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "obeys", 2 * PATIENCE)
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 0
        assert time.monotonic() - began > 1.5
    history = await handle.fetch_history()
    assert not any(e.HasField("activity_task_completed_event_attributes") for e in history.events)
    await handle.terminate()


@pytest.mark.parametrize("activity", ["ignores_cancellation", "sits_in_a_thread"])
async def test_an_activity_that_ignores_cancellation_does_not_keep_the_process(
    dev_server, acme, fresh, activity
):
    async with serving(dev_server.address, fresh.task_queue(), environment=HURRIED) as worker:
        handle = await in_flight(acme, fresh.task_queue(), activity, 2 * PATIENCE)
        worker.process.terminate()
        assert await worker.end() == 124
    assert "outlived" in worker.log
    await handle.terminate()


async def test_a_second_signal_ends_the_process_at_once(dev_server, acme, fresh):
    patient = {"graceful_shutdown_timeout": 2 * PATIENCE}
    async with serving(dev_server.address, fresh.task_queue(), **patient) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "obeys", 3 * PATIENCE)
        worker.process.terminate()
        await worker.says("polling stops")
        worker.process.terminate()
        assert await worker.end() == 128 + signal.SIGTERM
    await handle.terminate()


async def test_work_goes_on_in_another_process_after_a_drain(dev_server, acme, fresh, tmp_path):
    # Without a cache, the server does not wait for the worker that is gone.
    options = {"max_cached_workflows": 0, "graceful_shutdown_timeout": 2 * PATIENCE}
    release = tmp_path / "release"
    environment = {"SLOW_UNTIL": str(release)}
    async with serving(
        dev_server.address, fresh.task_queue(), environment=environment, **options
    ) as first:
        before = await in_flight(acme, fresh.task_queue(), "waits_for_a_file", 0.05)
        first.process.terminate()
        await first.says("polling stops")
        release.touch()
        assert await first.end() == 0
        handle = await acme.start_workflow(
            Slow.run, args=["obeys", 0.1], id="after", task_queue=fresh.task_queue()
        )
        async with serving(dev_server.address, fresh.task_queue()):
            assert await asyncio.wait_for(handle.result(), PATIENCE) == "finished"
            assert await asyncio.wait_for(before.result(), PATIENCE) == "finished"
