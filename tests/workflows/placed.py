"""Workflows that say where they ran, and send work to queues that they name."""

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import Priority, RetryPolicy

SECONDS = timedelta(seconds=60)


@activity.defn
async def where() -> dict[str, Any]:
    info = activity.info()
    return {
        "queue": info.task_queue,
        "namespace": info.namespace,
        "urgency": info.priority.priority_key,
        "weight": info.priority.fairness_weight,
    }


@workflow.defn
class Where:
    @workflow.run
    async def run(self) -> dict[str, Any]:
        info = workflow.info()
        return {
            "queue": info.task_queue,
            "namespace": info.namespace,
            "urgency": info.priority.priority_key,
            "weight": info.priority.fairness_weight,
        }


@workflow.defn
class Sends:
    """Sends work of a kind to a queue, after it is told to, and says where that ran."""

    def __init__(self) -> None:
        self.is_told = False

    @workflow.run
    async def run(
        self, kind: str, queue: str | None, urgency: int | None = None, wait: bool = False
    ) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self.is_told or not wait)
        priority = Priority(priority_key=urgency)
        if kind == "continue":
            workflow.continue_as_new(args=["activity", None], task_queue=queue)
        if kind == "activity":
            return await workflow.execute_activity(
                where,
                task_queue=queue,
                priority=priority,
                start_to_close_timeout=SECONDS,
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
            )
        return await workflow.execute_child_workflow(Where.run, task_queue=queue, priority=priority)

    @workflow.signal
    def go(self) -> None:
        self.is_told = True

    @workflow.query
    def told(self) -> bool:
        return self.is_told


WORKFLOWS = [Sends, Where]
ACTIVITIES = [where]
