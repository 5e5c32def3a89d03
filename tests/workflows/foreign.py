"""A workflow that knows nothing of tenants and calls an activity on another queue."""

from datetime import timedelta

from temporalio import workflow


@workflow.defn
class CallsElsewhere:
    @workflow.run
    async def run(self, task_queue: str, activity: str) -> str:
        return await workflow.execute_activity(
            activity, task_queue=task_queue, start_to_close_timeout=timedelta(seconds=60)
        )
