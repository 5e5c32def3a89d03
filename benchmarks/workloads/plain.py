"""Workflows in a module that imports next to nothing."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

SOON = timedelta(seconds=60)


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}"


@activity.defn
async def echo(data: bytes) -> bytes:
    return data


@workflow.defn
class Activities:
    """Calls activities, some in parallel, some rounds of them."""

    @workflow.run
    async def run(self, rounds: int, parallel: int) -> int:
        for _ in range(rounds):
            await asyncio.gather(
                *(
                    workflow.execute_activity(greet, "you", start_to_close_timeout=SOON)
                    for _ in range(parallel)
                )
            )
        return rounds * parallel


@workflow.defn
class Payload:
    """Takes a large argument, hands it to an activity and returns it."""

    @workflow.run
    async def run(self, data: bytes) -> bytes:
        return await workflow.execute_activity(echo, data, start_to_close_timeout=SOON)


@workflow.defn
class Mailbox:
    """Waits for messages until it has heard of its end."""

    def __init__(self) -> None:
        self.heard = 0
        self.is_over = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.is_over)
        return self.heard

    @workflow.signal
    def note(self, text: str) -> None:
        del text
        self.heard += 1

    @workflow.query
    def count(self) -> int:
        return self.heard

    @workflow.update
    def add(self, text: str) -> int:
        del text
        self.heard += 1
        return self.heard

    @workflow.signal
    def finish(self) -> None:
        self.is_over = True


@workflow.defn
class Child:
    @workflow.run
    async def run(self) -> None:
        return None


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, count: int) -> None:
        await asyncio.gather(*(workflow.execute_child_workflow(Child.run) for _ in range(count)))


@workflow.defn
class Chain:
    """Continues as new so many times."""

    @workflow.run
    async def run(self, left: int) -> None:
        if left:
            workflow.continue_as_new(left - 1)


@workflow.defn
class Racing:
    """Takes so long over its last task that a late signal makes the server refuse it once."""

    def __init__(self) -> None:
        self.is_over = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.is_over)
        with workflow.unsafe.sandbox_unrestricted():
            time.sleep(0.2)  # noqa: ASYNC251 - blocks on purpose
        return "done"

    @workflow.signal
    def finish(self) -> None:
        self.is_over = True

    @workflow.signal
    def late(self) -> None:
        pass


WORKFLOWS = [Activities, Payload, Mailbox, Child, Parent, Chain, Racing]
ACTIVITIES: list[Callable[..., Any]] = [greet, echo]
