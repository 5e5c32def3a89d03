"""Workflows that start more work by themselves: again and again, or as children."""

import asyncio
from datetime import timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError

from tests.workflows.placed import Where


@workflow.defn
class Again:
    """Continues as new when told to; ends in its second run."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self, runs: int) -> int:
        if runs > 0:
            return runs
        await workflow.wait_condition(lambda: self.is_told)
        return self._again(runs)

    def _again(self, runs: int) -> NoReturn:
        workflow.continue_as_new(runs + 1)

    @workflow.signal
    def go(self) -> None:
        self.is_told = True

    @workflow.query
    def told(self) -> bool:
        return self.is_told


@workflow.defn
class Parent:
    """Starts a child when told to, and says what became of it."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.is_told)
        try:
            await workflow.execute_child_workflow(Where.run)
        except ChildWorkflowError as error:
            return str(error.cause)
        return "done"

    @workflow.signal
    def go(self) -> None:
        self.is_told = True

    @workflow.query
    def told(self) -> bool:
        return self.is_told


@workflow.defn
class Ticks:
    """Does nothing, for a schedule to start."""

    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(0)


TICK = timedelta(seconds=1)
WORKFLOWS = [Again, Parent, Ticks, Where]
