"""Activities that take their time, and differ in how they take a cancellation."""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from orkestra import current_tenant


@activity.defn
async def obeys(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "finished"


@activity.defn
async def waits_for_a_file(seconds: float) -> str:
    """Ends as soon as the file exists that SLOW_UNTIL names."""
    file = Path(os.environ["SLOW_UNTIL"])
    while not file.exists():  # noqa: ASYNC240 - it costs nothing
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
            start_to_close_timeout=timedelta(minutes=10),
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
