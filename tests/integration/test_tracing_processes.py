"""Traces of workers that freeze or are killed, and of terminated workflows."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psutil
import pytest
from temporalio.client import Client

from orkestra.devserver import DevServer
from orkestra.temporal.backfill import backfill_trace
from orkestra.testing import LangfuseReceiver, ReceivedSpan
from tests.support.names import Fresh
from tests.support.scenarios import Played, Stage, faults, played
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import Serving, serving
from tests.workflows import scenes

SECOND = timedelta(seconds=1)


@pytest.fixture
def receiver(fresh: Fresh) -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as made:
        yield made


@pytest.fixture
async def stage(
    raw_client: Client, fresh: Fresh, receiver: LangfuseReceiver
) -> AsyncIterator[Stage]:
    made = Stage(raw_client, fresh, receiver)
    yield made
    await made.close()


@asynccontextmanager
async def other_process(stage: Stage, server: DevServer) -> AsyncIterator[Serving]:
    """A worker of the scenes in a process of its own, which sends to the same receiver."""
    settings = stage.receiver.settings()
    assert settings.secret_key is not None
    langfuse = {
        "public_key": settings.public_key,
        "secret_key": settings.secret_key.get_secret_value(),
        "base_url": settings.base_url,
    }
    environment = {"SERVE_LANGFUSE": json.dumps(langfuse)}
    module = "tests.workflows.scenes"
    async with serving(  # without a cache nothing waits for a worker that is gone
        server.address, stage.queue, module=module, environment=environment, max_cached_workflows=0
    ) as worker:
        yield worker


async def is_at_it(worker: Serving) -> None:
    assert worker.process.stdout is not None
    said = await asyncio.wait_for(worker.process.stdout.readline(), PATIENCE)
    assert said == b"at it\n", worker.log


async def stands_still(worker: Serving) -> None:
    process = psutil.Process(worker.process.pid)
    await until(lambda: process.status() == psutil.STATUS_STOPPED, lambda: worker.log)


async def hears_that_it_is_gone(worker: Serving) -> None:
    """The core says so on standard output, some time after the process goes on."""
    assert worker.process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while line := await worker.process.stdout.readline():
            if b"not found" in line:
                return
    raise AssertionError(worker.log)


async def sent(stage: Stage, scene: Played, *names: str) -> list[ReceivedSpan]:
    """The spans of a trace, once those of the names have come."""

    async def have_come() -> Any:
        spans = [span for span in await stage.spans() if span.trace_id == scene.trace_id]
        return spans if not Counter(names) - Counter(span.name for span in spans) else None

    found: list[ReceivedSpan] = await until(have_come)
    return found


async def backfilled(stage: Stage, scene: Played) -> list[ReceivedSpan]:
    report = await backfill_trace(stage.client, scene.handle.id, older_than=timedelta())
    assert report.missing
    return await sent(stage, scene, *scene.names.elements())


async def test_a_worker_frozen_past_the_time_out_of_its_task_sends_nothing_of_it(stage, dev_server):
    async with other_process(stage, dev_server) as frozen:
        handle = await stage.start(scenes.Freezes.run, os.getpid(), task_timeout=2 * SECOND)
        await stands_still(frozen)
        async with stage.worker():
            assert await handle.result() == "thawed"
        frozen.process.send_signal(signal.SIGCONT)
        await hears_that_it_is_gone(frozen)
        frozen.process.send_signal(signal.SIGTERM)
        await frozen.end()

    scene = played(handle, "workflow:Freezes", "activity:step")
    assert faults(await sent(stage, scene), scene) == ""


async def test_a_worker_killed_in_a_workflow_task_loses_its_held_spans_until_they_are_backfilled(
    stage, dev_server
):
    async with other_process(stage, dev_server) as killed:
        handle = await stage.start(scenes.Freezes.run, os.getpid(), task_timeout=2 * SECOND)
        await stands_still(killed)
        await killed.kill()
    async with stage.worker():
        assert await handle.result() == "thawed"

    scene = played(handle, "workflow:Freezes", "activity:step")
    found = await sent(stage, scene, "workflow:Freezes")
    if faults(found, scene):  # the activity's span may have been under way
        assert [span.name for span in found] == ["workflow:Freezes"]
        found = await backfilled(stage, scene)
    assert faults(found, scene) == ""


async def test_a_worker_killed_in_an_activity_loses_that_attempt_only(stage, dev_server):
    async with other_process(stage, dev_server) as killed:
        handle = await stage.start(scenes.Works.run, 30.0, task_timeout=2 * SECOND)
        await is_at_it(killed)
        await killed.kill()
    async with stage.worker():
        assert await handle.result() == "waited"

    scene = played(handle, "workflow:Works", "activity:say_and_wait")
    found = await sent(stage, scene, "workflow:Works")
    assert faults(found, scene) == ""
    [attempt] = [span for span in found if span.name == "activity:say_and_wait"]
    assert attempt.metadata["attempt"] > 1


async def test_a_terminated_workflow_lacks_its_root_until_it_is_backfilled(stage):
    async with stage.worker():
        handle = await stage.start(scenes.Stays.run)
        scene = played(handle, "workflow:Stays", "activity:step")

        async def is_waiting() -> bool:
            events = (await handle.fetch_history()).events
            return any(e.HasField("activity_task_completed_event_attributes") for e in events)

        await until(is_waiting)
        await handle.terminate("enough")
    found = await sent(stage, scene, "activity:step")
    assert faults(found, scene) == str(
        {"missing": {"workflow:Stays": 1}, "roots": ["none"], "orphans": ["activity:step"]}
    )
    assert faults(await backfilled(stage, scene), scene) == ""
