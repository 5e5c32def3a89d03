"""What a worker's process asks the server about its workers while they run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.operatorservice.v1 import RemoveSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orkestra.devserver import DevServer
from orkestra.temporal.run_worker.monitor import HealthMonitor, PollerCheck, PollMetrics
from orkestra.temporal.run_worker.supervisor import ProcessStatus, Stage, Supervisor
from tests.support.waiting import until

SOON = timedelta(seconds=0.1)
FREE = PollMetrics(free_slots={"ActivityWorker": 5.0, "WorkflowWorker": 5.0})
BUSY = PollMetrics(free_slots={"ActivityWorker": 0.0, "WorkflowWorker": 0.0})


@activity.defn
async def nothing() -> None:
    """Poll for it."""


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def worker_of(client: Client, queue: str, identity: str = "us") -> Worker:
    return Worker(client, task_queue=queue, activities=[nothing], identity=identity)


async def asked(look: PollerCheck, clock: Clock, own: PollMetrics | None = FREE) -> str | None:
    clock.now += 30
    return await look.problem(own)


async def test_a_worker_that_the_server_does_not_list_is_distinguished_from_one_that_it_lists(
    dev_server, raw_client, fresh, clock
):
    queue = fresh.task_queue()
    worker = worker_of(raw_client, queue)
    look = PollerCheck(worker, clock=clock)
    another = await Client.connect(dev_server.address)
    async with worker_of(another, queue, identity="others"):
        assert await asked(look, clock) is None
        assert "'us'" in (await asked(look, clock) or "")
        assert "activities" in (await asked(look, clock) or "")
        assert await asked(look, clock, BUSY) is None
        assert await asked(look, clock) is None
        assert await asked(look, clock) is not None
        async with worker:

            async def is_seen() -> bool:
                return await asked(look, clock) is None

            await until(is_seen)


async def test_a_worker_whose_last_poll_is_long_ago_is_reported(raw_client, fresh, clock):
    worker = worker_of(raw_client, fresh.task_queue())
    look = PollerCheck(worker, clock=clock)
    async with worker:
        await until(look._seen)
        answers: list[str | None] = []

        async def is_told() -> bool:
            answers.append(await asked(look, clock))
            return answers[-1] is not None

        # Its polls go on at the server, and the clock of this test leaves them behind.
        await until(is_told)
        assert len(answers) >= 7  # a poll that has only just begun puts it off
        assert "in 180 s" in str(answers[-1])


async def test_a_server_that_does_not_answer_says_nothing_about_pollers(fresh, clock):
    server = DevServer(ui=False)
    async with server:
        client = await Client.connect(server.address)
        look = PollerCheck(worker_of(client, fresh.task_queue()), clock=clock)
        assert await asked(look, clock) is None
        assert await asked(look, clock) is not None
    for _ in range(9):
        assert await asked(look, clock) is None


async def test_a_server_that_does_not_permit_listing_pollers_is_not_asked_again(
    raw_client, fresh, clock, monkeypatch
):
    asks: list[object] = []

    async def refuse(request: object, **_: object) -> None:
        asks.append(request)
        raise RPCError("not for you", RPCStatusCode.PERMISSION_DENIED, b"")

    look = PollerCheck(worker_of(raw_client, fresh.task_queue()), clock=clock)
    monkeypatch.setattr(raw_client.workflow_service, "describe_task_queue", refuse)
    for _ in range(5):
        assert await asked(look, clock) is None
    assert len(asks) == 1


@asynccontextmanager
async def watched(*workers: Worker, **options: Any) -> AsyncIterator[ProcessStatus]:
    supervisors = [
        Supervisor(each, restart=False, longest_pause=timedelta(seconds=1)) for each in workers
    ]
    status = ProcessStatus(workers=tuple(each.status for each in supervisors))
    status.enter(Stage.RUNNING)
    task = asyncio.create_task(HealthMonitor(status, supervisors, period=SOON, **options).run())
    try:
        yield status
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_one_namespace_name_on_two_servers_is_two_namespaces(raw_client, fresh):
    other = DevServer(ui=False)
    async with other:
        elsewhere = await Client.connect(other.address)
        workers = [worker_of(each, fresh.task_queue()) for each in (raw_client, elsewhere)]
        async with watched(*workers) as status:
            here, there = status.workers
            await asyncio.sleep(0.5)
            assert here.unreachable is there.unreachable is None
            await other.kill()
            await until(lambda: there.unreachable is not None)
            assert "does not answer" in (there.trouble or "")
            assert here.unreachable is None
            assert here.trouble is None


async def test_a_search_attribute_that_goes_away_makes_the_worker_unready(fresh):
    async with DevServer(ui=False) as server:
        client = await Client.connect(server.address)
        worker = worker_of(client, fresh.task_queue())
        async with worker, watched(worker, search_attribute="tenantId", every=SOON) as status:
            status.workers[0].fault = None
            await until(lambda: status.is_ready)
            assert "tenantId" not in status.readiness().get("reason", "")
            await client.operator_service.remove_search_attributes(
                RemoveSearchAttributesRequest(search_attributes=["tenantId"], namespace="default")
            )
            await until(lambda: "tenantId" in status.readiness().get("reason", ""))
            assert not status.is_ready
