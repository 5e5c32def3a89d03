"""A workflow that is open on both sides of an event: an activity, a wait, another activity."""

from datetime import timedelta

from temporalio import activity, workflow

_TIMEOUT = 60.0


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


@workflow.defn
class Gated:
    def __init__(self) -> None:
        self._is_open = False

    @workflow.run
    async def run(self, number: int, step_timeout: float = _TIMEOUT) -> str:
        first = await self._step(f"first {number}", step_timeout)
        await workflow.wait_condition(lambda: self._is_open)
        second = await self._step(f"second {number}", step_timeout)
        return f"{first}, {second}"

    @workflow.signal
    def open(self) -> None:
        self._is_open = True

    async def _step(self, name: str, timeout: float) -> str:
        return await workflow.execute_activity(
            "take_step",
            name,
            result_type=str,
            start_to_close_timeout=timedelta(seconds=timeout),
        )
