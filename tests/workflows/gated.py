"""A workflow that is open on both sides of an event: an activity, a wait, another activity."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

_TIMEOUT = timedelta(seconds=20)


class Steps:
    """The activities of one test, and what they have done.

    Attributes:
        done: Each step of each workflow, in the order in which it ended.
    """

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    @activity.defn(name="take_step")
    async def take_step(self, name: str) -> str:
        workflow_id = activity.info().workflow_id
        self.done.append((workflow_id or "", name))
        return name

    @activity.defn(name="stroll")
    async def stroll(self, seconds: float) -> str:
        """Take long, and say so all the time."""
        for _ in range(round(seconds / 0.1)):
            activity.heartbeat()
            await asyncio.sleep(0.1)
        return "strolled"


@workflow.defn
class Gated:
    def __init__(self) -> None:
        self._is_open = False

    @workflow.run
    async def run(self, number: int) -> str:
        first = await self._step(f"first {number}")
        await workflow.wait_condition(lambda: self._is_open)
        return f"{first}, {await self._step(f'second {number}')}"

    @workflow.signal
    def open(self) -> None:
        self._is_open = True

    async def _step(self, name: str) -> str:
        return await workflow.execute_activity(
            "take_step", name, result_type=str, start_to_close_timeout=_TIMEOUT
        )
