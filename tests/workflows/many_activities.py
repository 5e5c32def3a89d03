"""A workflow that queues many activities at once, as a tenant that wants to be first would."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import Priority

from orkestra import current_tenant

ABUSES = ("urgency", "another's key", "weight", "many keys")


@activity.defn
async def note(names: str) -> str | None:
    return current_tenant()


@workflow.defn
class Crowd:
    @workflow.run
    async def run(self, count: int, queue: str, abuse: str, victim: str) -> None:
        def priority(number: int) -> Priority:
            return {
                "none": Priority(),
                "urgency": Priority(priority_key=1),
                "another's key": Priority(fairness_key=victim),
                "weight": Priority(fairness_weight=1000),
                "many keys": Priority(fairness_key=f"{victim}-{number}"),
            }[abuse]

        await asyncio.gather(
            *(
                workflow.execute_activity(
                    note,
                    str(number),
                    task_queue=queue,
                    priority=priority(number),
                    start_to_close_timeout=timedelta(seconds=60),
                )
                for number in range(count)
            )
        )
