"""Workflows whose traces are hard to tell from their histories alone."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

BRIEFLY = timedelta(seconds=60)
AT_ONCE = timedelta(milliseconds=200)
ONCE = RetryPolicy(maximum_attempts=1)
QUICKLY = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)


@activity.defn
async def count_to(attempt: int) -> int:
    if activity.info().attempt < attempt:
        raise ApplicationError(f"not yet: {activity.info().attempt}")
    return attempt


@activity.defn
async def linger(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def count(attempt: int = 1) -> int:
    return await workflow.execute_activity(
        count_to, attempt, start_to_close_timeout=BRIEFLY, retry_policy=QUICKLY
    )


@workflow.defn
class Locals:
    """Local activities side by side, again and again, with messages in between and a slow one."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @workflow.run
    async def run(self) -> int:
        done = 0
        for attempt in (1, 2):
            done += sum(await asyncio.gather(self.local(attempt), self.local(attempt)))
            done += await count()
        await workflow.execute_local_activity(linger, 3.6, start_to_close_timeout=BRIEFLY)
        done += await self.local(1)
        await workflow.wait_condition(lambda: len(self.notes) == 2)
        return done + await self.local(1)

    async def local(self, attempt: int) -> int:
        return await workflow.execute_local_activity(
            count_to, attempt, start_to_close_timeout=BRIEFLY, retry_policy=QUICKLY
        )

    @workflow.signal
    async def note(self, text: str) -> None:
        await self.local(1)
        self.notes.append(text)

    @workflow.update
    async def noted(self, text: str) -> int:
        self.notes.append(text)
        return await self.local(1)


@workflow.defn
class Troubles:
    """What can go wrong: nobody takes it, it takes too long, it does not exist, it exists."""

    @workflow.run
    async def run(self) -> list[str]:
        found = [
            await self.trouble(0.0, task_queue=f"{workflow.info().task_queue}-nobody"),
            await self.trouble(5.0),
        ]
        try:
            await workflow.get_external_workflow_handle("nobody").signal("hello", "there")
        except ApplicationError as error:
            found.append(error.message)
        child = await workflow.start_child_workflow(
            Waits.run, id=f"{workflow.info().workflow_id}-c"
        )
        try:
            await workflow.start_child_workflow(Waits.run, "again", id=child.id)
        except WorkflowAlreadyStartedError as error:
            found.append(type(error).__name__)
        await child.signal(Waits.go)
        await child
        await workflow.sleep(0.3)
        return found

    async def trouble(self, seconds: float, task_queue: str | None = None) -> str:
        try:
            await workflow.execute_activity(
                linger,
                seconds,
                task_queue=task_queue,
                schedule_to_start_timeout=AT_ONCE if task_queue else None,
                start_to_close_timeout=AT_ONCE,
                retry_policy=ONCE,
            )
        except ActivityError as error:
            return str(error.cause)
        return "none"


@workflow.defn
class Again:
    """Fails, and is tried again by its own retry policy."""

    @workflow.run
    async def run(self) -> int:
        await count()
        if workflow.info().attempt == 1:
            raise ApplicationError("once more")
        return workflow.info().attempt


@workflow.defn
class Waits:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self, value: Any = None) -> Any:
        await count()
        await workflow.wait_condition(lambda: self.is_told)
        await count()
        return value

    @workflow.signal
    def go(self) -> None:
        self.is_told = True


WORKFLOWS: list[type] = [Locals, Troubles, Again, Waits]
ACTIVITIES: list[Any] = [count_to, linger]
