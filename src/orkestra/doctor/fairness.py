"""Whether the server deals out tasks fairly, seen from what it does: it does not say.

A few activities of one fairness key stand in a queue before fewer of another. A server that is fair
hands out the few early; one that is not, at the end.
"""

import asyncio
import uuid
from datetime import timedelta
from typing import Final

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
)
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from orkestra.doctor.findings import Finding
from orkestra.doctor.service import QUEUE
from orkestra.temporal.unconfined import unconfined

_MANY: Final = 120
_FEW: Final = 12
_POLLERS: Final = 4
_LIFE: Final = timedelta(seconds=60)
_MEND: Final = (
    "set matching.useNewMatcher and matching.enableFairness in the server's dynamic configuration"
)


async def examine_fairness(client: Client, *, timeout: timedelta) -> Finding:
    """Start short-lived activities on a queue of the doctor's own, and see in which order they go.

    Args:
        client: A client that may start standalone activities.
        timeout: How long it may take.

    Returns:
        Whether the server is fair; open where it knows no standalone activities.
    """
    bare = unconfined(client)
    queue = f"{QUEUE}-{uuid.uuid4().hex[:8]}"
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            for key, count in (("many", _MANY), ("few", _FEW)):
                await asyncio.gather(*(_start(bare, queue, key) for _ in range(count)))
            order = await _served(bare, queue)
    except (RPCError, TimeoutError) as error:
        why = error.message if isinstance(error, RPCError) else "no answer in time"
        return Finding("fairness", ok=None, detail=f"cannot be told: {why}")
    first = order.index("few") + 1
    detail = f"the first of {_FEW} tasks behind {_MANY} was handed out as number {first}"
    # Seen with the usual four partitions: 7 to 20 where it is on, 50 to 81 where it is off.
    if first <= _MANY // 4:
        return Finding("fairness", ok=True, detail=detail)
    return Finding("fairness", ok=False, detail=f"{detail}: fairness is off", mend=_MEND)


async def _start(client: Client, queue: str, key: str) -> None:
    await client.start_activity(
        QUEUE,
        key,
        id=f"{queue}-{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        schedule_to_close_timeout=_LIFE,
        priority=Priority(fairness_key=f"{QUEUE}-{key}"),
    )


async def _served(client: Client, queue: str) -> list[str]:
    """Take and complete all the tasks; the fairness keys in the order in which they came."""
    order: list[str] = []
    pollers = [asyncio.ensure_future(_serve(client, queue, order)) for _ in range(_POLLERS)]
    try:
        done, _ = await asyncio.wait(pollers, return_when=asyncio.FIRST_COMPLETED)
        for poller in done:
            poller.result()
    finally:
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
    return order


async def _serve(client: Client, queue: str, order: list[str]) -> None:
    poll = PollActivityTaskQueueRequest(
        namespace=client.namespace, identity=QUEUE, task_queue=TaskQueue(name=queue)
    )
    while len(order) < _MANY + _FEW:
        task = await client.workflow_service.poll_activity_task_queue(poll)
        if not task.task_token:
            continue
        order.append(task.priority.fairness_key.removeprefix(f"{QUEUE}-"))
        await client.workflow_service.respond_activity_task_completed(
            RespondActivityTaskCompletedRequest(
                namespace=client.namespace, task_token=task.task_token, identity=QUEUE
            )
        )
