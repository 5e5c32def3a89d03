"""Workflows that reach for others by global IDs."""

import asyncio

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError


@workflow.defn
class Waits:
    """Waits to be told to go, or to begin again."""

    def __init__(self) -> None:
        self.order = ""

    @workflow.run
    async def run(self, runs: int = 1) -> str:
        await workflow.wait_condition(lambda: bool(self.order))
        if self.order == "again":
            workflow.continue_as_new(runs + 1)
        return f"{self.order} {runs}"

    @workflow.signal
    def tell(self, order: str) -> None:
        self.order = order

    @workflow.query
    def asked(self) -> str:
        return self.order

    @workflow.update
    async def told(self, order: str) -> str:
        self.order = order
        return order


@workflow.defn
class CancelsByGlobalId:
    @workflow.run
    async def run(self, workflow_id: str) -> str:
        try:
            await workflow.get_external_workflow_handle(workflow_id).cancel()
        except ApplicationError as error:
            return error.message
        await asyncio.sleep(0.01)
        return "cancelled"


@workflow.defn
class TerminatesByChild:
    @workflow.run
    async def run(self, workflow_id: str) -> None:
        await workflow.start_child_workflow(
            Waits.run,
            1,
            id=workflow_id,
            id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
        )


WORKFLOWS = [CancelsByGlobalId, TerminatesByChild, Waits]
