"""Workflows and Nexus operations of the tenancy matrix: each tells its tenant."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nexusrpc
import nexusrpc.handler
from temporalio import nexus, workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError

from orkestra import current_tenant

# A worker without a cache imports this module anew for each task.
with workflow.unsafe.imports_passed_through():
    from tests.workflows.activities import (
        Desk,
        ask,
        asks_its_client,
        completed_elsewhere,
        second_attempt_tells,
        whose_activity,
    )
    from tests.workflows.everything import Mailbox

SECONDS = timedelta(seconds=60)


@workflow.defn
class Whose:
    @workflow.run
    async def run(self) -> str | None:
        """Tells whose it is; in its second task, so that a worker without a cache replays."""
        first = current_tenant()
        await workflow.sleep(0.001)
        return first if first == current_tenant() else f"{first}, then {current_tenant()}"


@workflow.defn
class SecondRun:
    @workflow.run
    async def run(self) -> str | None:
        await workflow.sleep(0.001)
        if workflow.info().attempt == 1:
            raise ApplicationError("once more")
        return current_tenant()


@workflow.defn
class SecondTick:
    """The first run of a cron schedule ends, the second waits to be asked."""

    @workflow.run
    async def run(self) -> str | None:
        if workflow.has_last_completion_result():
            await asyncio.Future()
        return current_tenant()

    @workflow.query
    def ticks(self) -> tuple[bool, str | None]:
        return workflow.has_last_completion_result(), current_tenant()


@workflow.defn
class Lingers:
    """Waits to be cancelled and then tells whose it is."""

    @workflow.run
    async def run(self) -> str | None:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            return current_tenant()


@nexusrpc.handler.service_handler(service=Desk)
class DeskHandler:
    @nexusrpc.handler.sync_operation
    async def asks(self, _: nexusrpc.handler.StartOperationContext, text: str) -> str | None:
        what, _, target = text.partition(" ")
        return await ask(nexus.client(), what, target, nexus.info().task_queue)

    @nexusrpc.handler.sync_operation
    async def whose(self, _: nexusrpc.handler.StartOperationContext, __: str) -> str | None:
        await asyncio.sleep(0)
        return current_tenant()

    @nexusrpc.handler.sync_operation
    def whose_in_a_thread(self, _: nexusrpc.handler.StartOperationContext, __: str) -> str | None:
        return current_tenant()

    @nexus.workflow_run_operation
    async def whose_workflow(
        self, context: nexus.WorkflowRunOperationContext, name: str
    ) -> nexus.WorkflowHandle[str | None]:
        return await context.start_workflow(Whose.run, id=name)

    @nexus.workflow_run_operation
    async def lingering_workflow(
        self, context: nexus.WorkflowRunOperationContext, name: str
    ) -> nexus.WorkflowHandle[str | None]:
        return await context.start_workflow(Lingers.run, id=name)


@dataclass
class Order:
    """What a workflow is to do, to whom, on which queue or through which endpoint."""

    what: str
    target: str = ""
    queue: str | None = None
    endpoint: str = ""


@workflow.defn
class Does:
    """Gives one kind of command and returns what came of it."""

    @workflow.run
    async def run(self, order: Order) -> Any:
        return await getattr(self, order.what)(order)

    async def child(self, order: Order) -> Any:
        name = order.target or f"{workflow.uuid4()}"
        child = await workflow.start_child_workflow(Whose.run, id=name, task_queue=order.queue)
        return [child.id, await child]

    async def abandoned(self, order: Order) -> Any:
        child = await workflow.start_child_workflow(
            Whose.run,
            id=order.target,
            task_queue=order.queue,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )
        return child.id

    async def child_signal(self, order: Order) -> Any:
        child = await workflow.start_child_workflow(
            Mailbox.run,
            id=order.target,
            task_queue=order.queue,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )
        await child.signal(Mailbox.note, "child")
        return child.id

    async def external_signal(self, order: Order) -> None:
        await workflow.get_external_workflow_handle(order.target).signal(Mailbox.note, "external")

    async def external_cancel(self, order: Order) -> None:
        await workflow.get_external_workflow_handle(order.target).cancel()

    async def activity(self, order: Order) -> Any:
        return await workflow.execute_activity(
            whose_activity, task_queue=order.queue, start_to_close_timeout=SECONDS
        )

    async def own_client(self, order: Order) -> Any:
        return await workflow.execute_activity(
            asks_its_client,
            args=order.target.split(" "),
            task_queue=order.queue,
            start_to_close_timeout=SECONDS,
        )

    async def heartbeat(self, order: Order) -> Any:
        return await workflow.execute_activity(
            second_attempt_tells,
            task_queue=order.queue,
            start_to_close_timeout=SECONDS,
            heartbeat_timeout=SECONDS,
        )

    async def asynchronous(self, order: Order) -> Any:
        return await workflow.execute_activity(
            completed_elsewhere,
            activity_id="async",
            start_to_close_timeout=SECONDS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            result_type=str,
        )

    async def local_activity(self, order: Order) -> Any:
        return await workflow.execute_local_activity(whose_activity, start_to_close_timeout=SECONDS)

    async def again(self, order: Order) -> Any:
        if not order.target:
            workflow.continue_as_new(Order("again", "last"))
        await workflow.sleep(0.001)
        return current_tenant()

    async def again_elsewhere(self, order: Order) -> Any:
        workflow.continue_as_new(Order("again", "last"), task_queue=order.queue)

    async def memo(self, order: Order) -> Any:
        workflow.upsert_memo({"tenantId": order.target})
        await workflow.sleep(0.001)
        return current_tenant()

    async def attribute(self, order: Order) -> Any:
        key = SearchAttributeKey.for_keyword("tenantId")
        workflow.upsert_search_attributes([key.value_set(order.target)])
        await workflow.sleep(0.001)
        return current_tenant()

    async def nexus(self, order: Order) -> Any:
        name, _, target = order.target.partition(" ")
        client = workflow.create_nexus_client(service=Desk, endpoint=order.endpoint)
        return await client.execute_operation(
            getattr(Desk, name), target, schedule_to_close_timeout=SECONDS
        )

    async def nexus_cancel(self, order: Order) -> Any:
        client = workflow.create_nexus_client(service=Desk, endpoint=order.endpoint)
        operation = await client.start_operation(
            Desk.lingering_workflow, order.target, schedule_to_close_timeout=SECONDS
        )
        operation.cancel()
        return await operation


WORKFLOWS = [Does, Lingers, SecondRun, SecondTick, Whose]
