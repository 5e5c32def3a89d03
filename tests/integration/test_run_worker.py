"""How a worker's process stops: signals, the grace period, the second signal, the exit code."""

import asyncio
import signal
import time
from typing import Any

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowHandle

from orkestra import OrkestraPlugin
from tests.support.worker_process import HURRIED, serving
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
    while True:
        pending = (await handle.describe()).raw_description.pending_activities
        if pending and pending[0].state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
            return handle
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_activity_that_ends_within_the_grace_period_completes(
    dev_server, acme, fresh, number
):
    async with serving(dev_server.address, fresh.task_queue()) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "obeys", 1.0)
        worker.process.send_signal(number)
        assert await worker.end() == 0
    history = await handle.fetch_history()
    assert any(e.HasField("activity_task_completed_event_attributes") for e in history.events)
    assert f"{number.name}: polling stops" in worker.log
    assert "Traceback" not in worker.log
    await handle.terminate()


async def test_an_activity_that_outlives_the_grace_period_is_cancelled(dev_server, acme, fresh):
    async with serving(dev_server.address, fresh.task_queue()) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "obeys", 30.0)
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 0
        assert 1.5 < time.monotonic() - began < 20
    history = await handle.fetch_history()
    assert not any(e.HasField("activity_task_completed_event_attributes") for e in history.events)
    await handle.terminate()


@pytest.mark.parametrize("activity", ["ignores_cancellation", "sits_in_a_thread"])
async def test_an_activity_that_ignores_cancellation_does_not_keep_the_process(
    dev_server, acme, fresh, activity
):
    async with serving(dev_server.address, fresh.task_queue(), environment=HURRIED) as worker:
        handle = await in_flight(acme, fresh.task_queue(), activity, 50.0)
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 124
        assert time.monotonic() - began < 15
    assert "outlived" in worker.log
    await handle.terminate()


async def test_a_second_signal_ends_the_process_at_once(dev_server, acme, fresh):
    patient = {"graceful_shutdown_timeout": 60}
    async with serving(dev_server.address, fresh.task_queue(), **patient) as worker:
        handle = await in_flight(acme, fresh.task_queue(), "obeys", 90.0)
        worker.process.terminate()
        await worker.says("polling stops")
        worker.process.terminate()
        began = time.monotonic()
        assert await worker.end() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 30
    await handle.terminate()


async def test_work_goes_on_in_another_process_after_a_drain(dev_server, acme, fresh):
    async with serving(dev_server.address, fresh.task_queue()) as first:
        before = await in_flight(acme, fresh.task_queue(), "obeys", 0.5)
        first.process.terminate()
        assert await first.end() == 0
        handle = await acme.start_workflow(
            Slow.run, args=["obeys", 0.1], id="after", task_queue=fresh.task_queue()
        )
        async with serving(dev_server.address, fresh.task_queue()):
            assert await asyncio.wait_for(handle.result(), 30) == "finished"
            assert await asyncio.wait_for(before.result(), 30) == "finished"
