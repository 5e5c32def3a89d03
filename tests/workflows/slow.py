"""Activities that take their time, and differ in how they take a cancellation."""

import asyncio
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from orkestra import current_tenant


@activity.defn
async def obeys(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "finished"


@activity.defn
async def ignores_cancellation(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue
    return "finished"


@activity.defn
def sits_in_a_thread(seconds: float) -> str:
    time.sleep(seconds)
    return "finished"


@workflow.defn
class Slow:
    @workflow.run
    async def run(self, name: str, seconds: float) -> str:
        return await workflow.execute_activity(
            name,
            seconds,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(maximum_attempts=1),
            result_type=str,
        )


@activity.defn
def whose(seconds: float) -> str:
    time.sleep(seconds)
    return str(current_tenant())


@activity.defn
async def blocks(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - the mistake that a liveness probe is to notice
    return "finished"
