"""Workflows that do one of everything that a trace shows."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

BRIEFLY = timedelta(seconds=60)
ONCE = RetryPolicy(maximum_attempts=1)
QUICKLY = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)


@dataclass
class Ticket:
    number: int
    text: str


@activity.defn
async def draft(ticket: Ticket) -> str:
    return f"draft of {ticket.number}"


@activity.defn
def tidy(text: str) -> str:
    return text.strip()


@activity.defn
async def look_up(fail_until: int) -> int:
    attempt = activity.info().attempt
    if attempt < fail_until:
        raise ValueError(f"not yet: {attempt}")
    return attempt


@activity.defn
async def refuse(text: str) -> None:
    raise ValueError(text)


@activity.defn
async def wait_to_be_cancelled() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


@workflow.defn
class Notify:
    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(tidy, text, start_to_close_timeout=BRIEFLY)


@workflow.defn
class Answer:
    """An activity, a local one, a child, a signal, an update, and as many runs as it is told."""

    def __init__(self) -> None:
        self.poked = False
        self.answer: str | None = None

    @workflow.run
    async def run(self, ticket: Ticket, runs: int = 1) -> str:
        first = await workflow.execute_activity(draft, ticket, start_to_close_timeout=BRIEFLY)
        second = await workflow.execute_local_activity(
            tidy, f" {first} ", start_to_close_timeout=BRIEFLY
        )
        child_id = f"{workflow.info().workflow_id}-child-{runs}"
        await workflow.execute_child_workflow(Notify.run, second, id=child_id)
        await workflow.wait_condition(lambda: self.poked and self.answer is not None)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if runs > 1:
            workflow.continue_as_new(args=[ticket, runs - 1])
        return f"{second}: {self.answer}"

    @workflow.signal
    async def poke(self, why: str) -> None:
        self.poked = True

    @workflow.update
    async def reply(self, text: str) -> int:
        self.answer = text
        return len(text)

    @workflow.query
    def state(self) -> str | None:
        return self.answer


@workflow.defn
class Fail:
    """Ends as it is told to."""

    @workflow.run
    async def run(self, how: str, text: str = "it broke") -> str:
        match how:
            case "raise":
                raise ApplicationError(text, type="Broken", non_retryable=True)
            case "benign":
                raise ApplicationError(text, category=ApplicationErrorCategory.BENIGN)
            case "activity":
                await workflow.execute_activity(
                    refuse, text, start_to_close_timeout=BRIEFLY, retry_policy=ONCE
                )
            case "wait":
                await workflow.execute_activity(
                    wait_to_be_cancelled,
                    start_to_close_timeout=BRIEFLY,
                    heartbeat_timeout=BRIEFLY,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                )
            case _:
                return how
        return how


_failed_once: set[str] = set()


@workflow.defn(sandboxed=False)
class FailTask:
    """Its first workflow task fails, and is tried again: no end of the workflow."""

    @workflow.run
    async def run(self) -> str:
        if workflow.info().workflow_id in _failed_once:
            return "done"
        _failed_once.add(workflow.info().workflow_id)
        raise RuntimeError("a bug that was mended")


@workflow.defn
class Flaky:
    """Waits between activities, so that a worker without a cache replays it again and again."""

    @workflow.run
    async def run(self, rounds: int, fail_until: int = 1) -> int:
        attempts = 0
        for _ in range(rounds):
            attempts += await workflow.execute_activity(
                look_up, fail_until, start_to_close_timeout=BRIEFLY, retry_policy=QUICKLY
            )
            await workflow.sleep(0.01)
        return attempts


@workflow.defn
class SignalOther:
    @workflow.run
    async def run(self, other: str) -> None:
        await workflow.get_external_workflow_handle(other).signal("poke", "from a workflow")


WORKFLOWS: list[type] = [Answer, Fail, FailTask, Flaky, Notify, SignalOther]
ACTIVITIES: list[Any] = [draft, look_up, refuse, tidy, wait_to_be_cancelled]
