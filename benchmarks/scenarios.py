"""Scenarios as a client runs them; each returns the ID of a workflow whose history is measured."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from temporalio.client import Client

from benchmarks.workloads.minimal import OneActivity
from benchmarks.workloads.modelled import Modelled
from benchmarks.workloads.plain import (
    Activities,
    Chain,
    Mailbox,
    Parent,
    Payload,
    Racing,
)

CONCURRENCY: Final = 20
_MEGABYTE: Final = bytes(1_000_000)

Run = Callable[[Client, str, int], Awaitable[str]]
"""Runs a number of units with a client on a task queue."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Scenario to measure.

    Attributes:
        run: Runs a number of units.
        unit: Name of a unit.
        count: Number of units per round.
        is_quick: True if the short run includes it.
    """

    run: Run
    unit: str = "workflow"
    count: int
    is_quick: bool = False


def _id() -> str:
    return str(uuid.uuid4())


def _workflows(workflow: Any, *args: Any) -> Run:
    async def run(client: Client, queue: str, count: int) -> str:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one() -> str:
            async with slots:
                handle = await client.start_workflow(
                    workflow, args=args, id=_id(), task_queue=queue
                )
                await handle.result()
                return str(handle.id)

        return (await asyncio.gather(*(one() for _ in range(count))))[0]

    return run


def _messages(send: Callable[[Any], Awaitable[object]]) -> Run:
    async def run(client: Client, queue: str, count: int) -> str:
        handle = await client.start_workflow(Mailbox.run, id=_id(), task_queue=queue)
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one() -> None:
            async with slots:
                await send(handle)

        await asyncio.gather(*(one() for _ in range(count)))
        await handle.signal(Mailbox.finish)
        await handle.result()
        return handle.id

    return run


async def _race(client: Client, queue: str, count: int) -> str:
    async def one() -> str:
        handle = await client.start_workflow(Racing.run, id=_id(), task_queue=queue)
        await handle.signal(Racing.finish)
        await asyncio.sleep(0.1)
        await handle.signal(Racing.late)
        await handle.result()
        return handle.id

    ids = [await one() for _ in range(count)]
    return ids[-1]


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "one activity": Scenario(run=_workflows(OneActivity.run), count=60, is_quick=True),
    "one activity, models": Scenario(run=_workflows(Modelled.run, 7), count=60, is_quick=True),
    "ten activities in sequence": Scenario(
        run=_workflows(Activities.run, 10, 1), count=20, is_quick=True
    ),
    "a hundred in parallel": Scenario(run=_workflows(Activities.run, 1, 100), count=3),
    "signals": Scenario(
        run=_messages(lambda handle: handle.signal(Mailbox.note, "hi")),
        unit="signal",
        count=500,
        is_quick=True,
    ),
    "queries": Scenario(
        run=_messages(lambda handle: handle.query(Mailbox.count)), unit="query", count=200
    ),
    "updates": Scenario(
        run=_messages(lambda handle: handle.execute_update(Mailbox.add, "hi")),
        unit="update",
        count=100,
    ),
    "children": Scenario(run=_workflows(Parent.run, 10), count=5),
    "continue-as-new": Scenario(run=_workflows(Chain.run, 10), count=5),
    "payload of 1 MB": Scenario(run=_workflows(Payload.run, _MEGABYTE), count=10),
}

RACE: Final = Scenario(run=_race, count=10)
