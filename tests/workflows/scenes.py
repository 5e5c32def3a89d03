"""Workflows for the scenario table of tracing: each does one thing that has gone wrong before."""

import asyncio
import os
import signal
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar

import nexusrpc
from temporalio import activity, nexus, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    NexusOperationError,
    WorkflowAlreadyStartedError,
)

BRIEFLY = timedelta(seconds=60)
TWICE = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2)
ONCE = RetryPolicy(maximum_attempts=1)


@activity.defn
async def step(name: str) -> str:
    return name


@activity.defn
async def linger(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@activity.defn
async def complete_later() -> str:
    activity.raise_complete_async()


@workflow.defn
class Leaf:
    @workflow.run
    async def run(self, seconds: float = 0.0) -> str:
        await workflow.execute_activity(step, "leaf", start_to_close_timeout=BRIEFLY)
        if seconds:
            await workflow.sleep(seconds)
        return "leaf"


@workflow.defn
class Mixed:
    """Signals before, with and after their handlers, updates taken and refused, and queries."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_done = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.seen) > 1)
        workflow.set_signal_handler("late", self.seen.append)
        await workflow.wait_condition(lambda: self.is_done)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.seen

    @workflow.signal
    async def note(self, text: str) -> None:
        await workflow.execute_activity(step, text, start_to_close_timeout=BRIEFLY)
        self.seen.append(text)

    @workflow.signal
    def finish(self) -> None:
        self.is_done = True

    @workflow.update
    async def add(self, text: str) -> int:
        await workflow.execute_local_activity(step, text, start_to_close_timeout=BRIEFLY)
        self.seen.append(text)
        return len(self.seen)

    @add.validator
    def check(self, text: str) -> None:
        if text == "refused":
            raise ApplicationError("no")

    @workflow.query
    def state(self) -> int:
        return len(self.seen)


@workflow.defn
class Retried:
    """Fails until the attempt that it is told."""

    @workflow.run
    async def run(self, until: int) -> int:
        attempt = workflow.info().attempt
        await workflow.execute_activity(step, str(attempt), start_to_close_timeout=BRIEFLY)
        if attempt < until:
            raise ApplicationError(f"attempt {attempt}")
        return attempt


@workflow.defn
class TooSlow:
    """Its activity takes longer than it may, and its last attempt, too."""

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_activity(
                linger, 3.0, start_to_close_timeout=timedelta(seconds=0.5), retry_policy=TWICE
            )
        except ActivityError:
            return "timed out"
        return "in time"


@workflow.defn
class Completed:
    """Someone else completes its activity."""

    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            complete_later, start_to_close_timeout=BRIEFLY, activity_id="later"
        )


@workflow.defn
class LongLocal:
    """Local activities side by side and in a row, over several workflow tasks of four seconds."""

    @workflow.run
    async def run(self) -> str:
        await asyncio.gather(*(self.local(seconds) for seconds in (0.1, 3.6)))
        await self.local(0.05)
        await workflow.execute_activity(step, "between", start_to_close_timeout=BRIEFLY)
        await self.local(0.05)
        return "done"

    async def local(self, seconds: float) -> None:
        await workflow.execute_local_activity(linger, seconds, start_to_close_timeout=BRIEFLY)


@workflow.defn
class Abandon:
    """Ends before its child does, starts another of the same ID, and signals nobody."""

    @workflow.run
    async def run(self) -> str:
        child_id = f"{workflow.info().workflow_id}-child"
        policy = workflow.ParentClosePolicy.ABANDON
        await workflow.start_child_workflow(Leaf.run, 0.4, id=child_id, parent_close_policy=policy)
        with suppress(WorkflowAlreadyStartedError):
            await workflow.start_child_workflow(Leaf.run, 0.0, id=child_id)
        with suppress(ApplicationError):
            await workflow.get_external_workflow_handle("nobody").signal("hello", "you")
        return "abandoned"


@workflow.defn
class Waits:
    """Timers that fire, and one that is cancelled."""

    @workflow.run
    async def run(self) -> None:
        cancelled = asyncio.create_task(asyncio.sleep(60))
        await workflow.sleep(0.4)
        cancelled.cancel()
        await workflow.sleep(0.4)


@workflow.defn(sandboxed=False)
class Buggy:
    """Its workflow task fails twice after it has taken a signal, then somebody mends it."""

    failures: ClassVar[dict[str, int]] = {}

    @workflow.run
    async def run(self) -> str:
        await workflow.execute_activity(step, "first", start_to_close_timeout=BRIEFLY)
        await workflow.wait_condition(lambda: self.is_poked)
        failures = self.failures.setdefault(workflow.info().workflow_id, 0)
        self.failures[workflow.info().workflow_id] += 1
        if failures < 2:
            raise RuntimeError("a bug")
        return "mended"

    def __init__(self) -> None:
        self.is_poked = False

    @workflow.signal
    def poke(self) -> None:
        self.is_poked = True


@workflow.defn(sandboxed=False)
class Races:
    """Its first try to complete is refused, because a signal has come while it was at it."""

    at_it: ClassVar[dict[str, threading.Event]] = {}
    has_come: ClassVar[dict[str, threading.Event]] = {}

    @workflow.run
    async def run(self) -> int:
        await workflow.execute_activity(step, "before", start_to_close_timeout=BRIEFLY)
        workflow_id = workflow.info().workflow_id
        self.at_it[workflow_id].set()
        # When this takes long, the SDK calls it a deadlock, and tries the task again.
        self.has_come[workflow_id].wait(BRIEFLY.total_seconds())
        return self.seen

    def __init__(self) -> None:
        self.seen = 0

    @workflow.signal
    def poke(self) -> None:
        self.seen += 1


@workflow.defn
class Stays:
    """Goes on until it is told, after an activity."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.execute_activity(step, "stay", start_to_close_timeout=BRIEFLY)
        await workflow.wait_condition(lambda: self.is_told)
        await workflow.execute_activity(step, "go", start_to_close_timeout=BRIEFLY)
        return "gone"

    @workflow.signal
    def go(self) -> None:
        self.is_told = True


@nexusrpc.service
class Counter:
    backed: nexusrpc.Operation[str, str]
    direct: nexusrpc.Operation[str, str]
    broken: nexusrpc.Operation[str, str]


@workflow.defn
class Backing:
    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(step, text, start_to_close_timeout=BRIEFLY)


@nexusrpc.handler.service_handler(service=Counter)
class CounterHandler:
    @nexus.workflow_run_operation
    async def backed(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Backing.run, text, id=f"backing-{text}")

    @nexusrpc.handler.sync_operation
    async def direct(self, ctx: nexusrpc.handler.StartOperationContext, text: str) -> str:
        return text.upper()

    @nexusrpc.handler.sync_operation
    async def broken(self, ctx: nexusrpc.handler.StartOperationContext, text: str) -> str:
        raise nexusrpc.HandlerError(
            "no such counter", type=nexusrpc.HandlerErrorType.BAD_REQUEST, retryable_override=False
        )


@workflow.defn
class CallsNexus:
    @workflow.run
    async def run(self, endpoint: str, text: str) -> list[str]:
        client: Any = workflow.create_nexus_client(service=Counter, endpoint=endpoint)
        said = [
            await client.execute_operation(name, text, schedule_to_close_timeout=BRIEFLY)
            for name in (Counter.backed, Counter.direct)
        ]
        try:
            await client.execute_operation(Counter.broken, text, schedule_to_close_timeout=BRIEFLY)
        except NexusOperationError as error:
            said.append(type(error).__name__)
        return said


@workflow.defn(sandboxed=False)
class Freezes:
    """Stops its process once in a workflow task, but not the process that runs the tests."""

    has_stopped: ClassVar[bool] = False

    @workflow.run
    async def run(self, pid_of_the_tests: int) -> str:
        await workflow.execute_activity(step, "before", start_to_close_timeout=BRIEFLY)
        if os.getpid() != pid_of_the_tests and not Freezes.has_stopped:
            Freezes.has_stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return "thawed"


@activity.defn
async def say_and_wait(seconds: float) -> str:
    if activity.info().attempt == 1:
        print("at it", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.sleep(seconds)
    return "waited"


@workflow.defn
class Works:
    @workflow.run
    async def run(self, seconds: float) -> str:
        return await workflow.execute_activity(
            say_and_wait,
            seconds,
            start_to_close_timeout=BRIEFLY,
            heartbeat_timeout=timedelta(seconds=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )


WORKFLOWS: list[type] = [
    Abandon,
    Backing,
    Buggy,
    CallsNexus,
    Completed,
    Freezes,
    Leaf,
    LongLocal,
    Mixed,
    Races,
    Retried,
    Stays,
    TooSlow,
    Waits,
    Works,
]
ACTIVITIES: list[Any] = [complete_later, linger, say_and_wait, step]
