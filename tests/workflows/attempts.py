"""An activity that ends as it is told, attempt by attempt."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy


@activity.defn
async def attempt(how: str) -> int:
    number = activity.info().attempt
    if how == "wait":
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)
    if number == 1 and how == "fail":
        raise ValueError("the first attempt")
    return number


@activity.defn
def attempt_in_a_thread(how: str) -> int:
    if how == "fail" and activity.info().attempt == 1:
        raise ValueError("the first attempt")
    return activity.info().attempt


@workflow.defn
class Attempts:
    @workflow.run
    async def run(self, name: str, how: str) -> int:
        result: int = await workflow.execute_activity(
            name,
            how,
            start_to_close_timeout=timedelta(seconds=90),
            heartbeat_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return result
