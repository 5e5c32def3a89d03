"""The Temporal service itself: credentials, namespaces, attribute, workers, clocks."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    PollActivityTaskQueueRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from orkestra.config import OrkestraConfig
from orkestra.doctor.findings import Finding
from orkestra.errors import OrkestraError
from orkestra.temporal.health import HealthCheck, check_temporal_health
from orkestra.temporal.unconfined import unconfined
from orkestra.temporal.unowned import find_unowned

QUEUE: Final = "orkestra-doctor"
"""The only task queue that the doctor itself touches."""

_SHOWN: Final = 3
_MAX_ROWS: Final = 1000
_MAX_SKEW: Final = timedelta(seconds=1)
_LOOK_EVERY: Final = 0.02
_SHARED: Final = frozenset({"connection", "server"})
_MENDS: Final = {
    "connection": "start the server, or correct temporal.address",
    "namespace": "create it by `temporal operator namespace create`, or correct the name",
    "search_attribute": "run `orkestra search-attributes ensure`",
    "workflow_pollers": "start a worker of this queue: `orkestra worker`",
    "activity_pollers": "start a worker of this queue: `orkestra worker`",
}


async def examine_namespace(
    client: Client, config: OrkestraConfig, *, timeout: timedelta, is_first: bool
) -> list[Finding]:
    """Look at the server and a namespace.

    Args:
        client: A client of the namespace.
        config: Says which search attribute there should be.
        timeout: How long it may take.
        is_first: Whether to say what is the same for all namespaces, too.
    """
    attribute = None if config.tenancy.mode == "off" else config.tenancy.search_attribute
    report = await check_temporal_health(client, timeout=timeout, search_attribute=attribute)
    checks = [check for check in report.checks if is_first or check.name not in _SHARED]
    return [_finding(check, "" if is_first else f"in {client.namespace!r}: ") for check in checks]


async def examine_queue(client: Client, task_queue: str, *, timeout: timedelta) -> list[Finding]:
    """Look for workers that poll a task queue."""
    report = await check_temporal_health(
        client, timeout=timeout, task_queue=task_queue, search_attribute=None
    )
    return [_finding(check) for check in report.checks if check.name.endswith("_pollers")]


async def examine_clocks(client: Client, *, timeout: timedelta) -> Finding:
    """Compare this machine's clock with the server's.

    The server says no time by itself, but notes when a worker polls: the doctor polls a queue of
    its own and looks at the note.
    """
    bare, identity = unconfined(client), f"{QUEUE}-{uuid.uuid4().hex[:8]}"
    queue = TaskQueue(name=QUEUE)
    poll = PollActivityTaskQueueRequest(
        namespace=bare.namespace, identity=identity, task_queue=queue
    )
    describe = DescribeTaskQueueRequest(
        namespace=bare.namespace,
        task_queue=queue,
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    earliest = time.time()
    polling = asyncio.ensure_future(
        bare.workflow_service.poll_activity_task_queue(poll, timeout=timeout)
    )
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while True:
                seen = await bare.workflow_service.describe_task_queue(describe)
                latest = time.time()
                for poller in seen.pollers:
                    if poller.identity == identity:
                        noted = poller.last_access_time.ToNanoseconds() / 1e9
                        return _skew(noted - latest, noted - earliest)
                await asyncio.sleep(_LOOK_EVERY)
    except (RPCError, TimeoutError) as error:
        why = error.message if isinstance(error, RPCError) else "the server noted no poll"
        return Finding("clock", ok=None, detail=f"cannot be compared: {why}")
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


async def examine_ownership(client: Client, *, timeout: timedelta) -> Finding:
    """Look for IDs under a tenant's prefix that are not the tenant's."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            found = await find_unowned(client, limit=_MAX_ROWS)
    except (RPCError, TimeoutError, OrkestraError) as error:
        why = str(error) or "no answer in time"
        return Finding("ownership", ok=None, detail=f"cannot be told: {why}")
    if not found:
        return Finding("ownership", ok=True, detail="no tenant can reach what is not its own")
    ids = ", ".join(repr(each.id) for each in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    detail = f"{ids}{more} stand under a tenant's prefix without its attribute"
    mend = "let them end or rename them, or give the tenant another ID"
    return Finding("ownership", ok=False, detail=detail, mend=mend)


def _finding(check: HealthCheck, prefix: str = "") -> Finding:
    mend = _MENDS.get(check.name, "") if check.ok is False else ""
    return Finding(check.name, ok=check.ok, detail=prefix + check.detail, mend=mend)


def _skew(least: float, most: float) -> Finding:
    """What is known of the difference: the server's note was made between two looks at ours."""
    limit = _MAX_SKEW.total_seconds()
    if least <= limit and most >= -limit:
        within = max(abs(least), abs(most))
        return Finding("clock", ok=True, detail=f"within {within:.2f} s of the server's")
    away = least if least > limit else -most
    which = "behind" if least > limit else "ahead of"
    detail = f"{abs(away):.1f} s {which} the server's"
    mend = "synchronise the clocks: latencies and traces would be wrong"
    return Finding("clock", ok=False, detail=detail, mend=mend)
