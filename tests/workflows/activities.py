"""Activities of the tenancy matrix, and what its Nexus operations are called."""

import asyncio
from datetime import timedelta
from typing import Any

import nexusrpc
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from orkestra import TenantMismatchError, current_tenant, tenant_scope

TOKENS: dict[str, bytes] = {}
"""Task tokens by the ID of what they belong to, as a thief in the worker's process would have."""


@activity.defn
async def whose_activity() -> str | None:
    return current_tenant()


@activity.defn
async def second_attempt_tells() -> list[Any]:
    info = activity.info()
    if info.attempt == 1:
        activity.heartbeat("progress", current_tenant())
        raise ApplicationError("once more", next_retry_delay=timedelta(milliseconds=50))
    return [current_tenant(), *info.heartbeat_details]


@activity.defn
async def completed_elsewhere() -> str:
    info = activity.info()
    TOKENS[info.workflow_id or info.activity_id] = info.task_token
    activity.raise_complete_async()


@activity.defn
async def waits_for_cancellation() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.1)


async def ask(client: Client, what: str, target: str, task_queue: str) -> str | None:
    """Use the client that a task got, and tell what came of it."""
    try:
        if what == "start":
            return (await client.start_workflow("Whose", id=target, task_queue=task_queue)).id
        if what == "scope":
            with tenant_scope(target):
                return "entered"
        return (await client.get_workflow_handle(target).describe()).id
    except (TenantMismatchError, RPCError) as error:
        return str(error)


@activity.defn
async def asks_its_client(what: str, target: str) -> str | None:
    return await ask(activity.client(), what, target, activity.info().task_queue)


@nexusrpc.service
class Desk:
    asks: nexusrpc.Operation[str, str | None]
    whose: nexusrpc.Operation[str, str | None]
    whose_in_a_thread: nexusrpc.Operation[str, str | None]
    whose_workflow: nexusrpc.Operation[str, str | None]
    lingering_workflow: nexusrpc.Operation[str, str | None]


ACTIVITIES = [
    asks_its_client,
    completed_elsewhere,
    second_attempt_tells,
    waits_for_cancellation,
    whose_activity,
]
