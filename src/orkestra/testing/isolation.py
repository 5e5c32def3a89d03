"""`assert_isolated()`: a workflow under two tenants at once, and nothing crosses between them."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from orkestra.errors import TenantError
from orkestra.temporal.client import start_workflow
from orkestra.testing.environment import OrkestraEnvironment


async def assert_isolated(
    environment: OrkestraEnvironment,
    workflow: Any,
    *args: Any,
    task_queue: str,
    timeout: timedelta = timedelta(seconds=30),
    **options: Any,
) -> dict[str, Any]:
    """Run a workflow for two tenants at once, under one ID, and check that nothing crosses.

    Checked: both end; neither reaches the other's workflow by any handle, not even by its ID on
    the server; neither finds it in a list; no history of one and no trace of one says anything of
    the other.

    Args:
        environment: Where a worker of the task queue runs.
        workflow: The workflow's run method, or its name.
        args: Its arguments, the same for both.
        task_queue: The worker's queue.
        timeout: How long the workflows may take.
        options: Any other option of `start_workflow()`.

    Returns:
        The results by tenant.

    Raises:
        AssertionError: Something crosses; the message says what.
        ValueError: The server skips time: it knows no lists, and jumps while one of the two waits.

    Example:
        ```python
        results = await assert_isolated(environment, Order.run, "book", task_queue=queue)
        ```
    """
    if environment.time is not None:
        msg = "a server that skips time cannot show isolation: use OrkestraEnvironment.local()"
        raise ValueError(msg)
    tenants = [f"{name}-{uuid.uuid4().hex[:12]}" for name in ("one", "two")]
    clients = {tenant: await environment.client(tenant) for tenant in tenants}
    workflow_id = f"isolated-{uuid.uuid4().hex[:12]}"

    async def start(tenant: str) -> WorkflowHandle[Any, Any]:
        return await start_workflow(
            clients[tenant],
            workflow,
            *args,
            task_queue=task_queue,
            workflow_id=workflow_id,
            **options,
        )

    started = await asyncio.gather(*map(start, tenants))
    for mine, other in ((0, 1), (1, 0)):
        await _reaches_nothing(clients[tenants[mine]], started[other])
    async with asyncio.timeout(timeout.total_seconds()):
        results = await asyncio.gather(*(handle.result() for handle in started))
    for mine, other in ((0, 1), (1, 0)):
        await _says_nothing(environment, started[mine], tenants[other])
        await _lists_nothing(clients[tenants[mine]], started[other])
    return dict(zip(tenants, results, strict=True))


async def _reaches_nothing(client: Client, foreign: WorkflowHandle[Any, Any]) -> None:
    """Try every way to a foreign workflow, by its ID on the server and its run."""
    handle = client.get_workflow_handle(foreign.id, run_id=foreign.first_execution_run_id)
    request = DescribeWorkflowExecutionRequest(namespace=client.namespace)
    request.execution.workflow_id = foreign.id
    attempts: dict[str, Callable[[], Awaitable[object]]] = {
        "describe": handle.describe,
        "history": handle.fetch_history,
        "signal": lambda: handle.signal("isolation"),
        "query": lambda: handle.query("isolation"),
        "update": lambda: handle.execute_update("isolation"),  # pyright: ignore[reportUnknownMemberType] - the SDK's own overloads
        "cancel": handle.cancel,
        "terminate": handle.terminate,
        "describe, as a raw call": lambda: client.workflow_service.describe_workflow_execution(
            request
        ),
    }
    for name, attempt in attempts.items():
        try:
            await attempt()
        except TenantError:
            continue
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                continue
            raise
        raise AssertionError(f"{name} reached {foreign.id!r}, which is another tenant's")


async def _says_nothing(
    environment: OrkestraEnvironment, handle: WorkflowHandle[Any, Any], other: str
) -> None:
    history = await handle.fetch_history()
    for event in history.events:
        if other.encode() in event.SerializeToString():
            where = f"event {event.event_id} of {handle.id!r}"
            raise AssertionError(f"{where} names another tenant")
    trace = await environment.trace_of(handle)
    for root in trace.roots:
        for span in root.walk():
            if other in repr((span.name, span.received.attributes)):
                raise AssertionError(f"span {span.name} of {handle.id!r} names another tenant")
    tenant = handle.id.partition(":")[0]
    if trace.tenant != tenant:
        raise AssertionError(f"the trace of {handle.id!r} is of {trace.tenant!r}")


async def _lists_nothing(client: Client, foreign: WorkflowHandle[Any, Any]) -> None:
    query = f"RunId = '{foreign.first_execution_run_id}'"
    if (await client.count_workflows(query)).count:
        raise AssertionError(f"{foreign.id!r} is counted for another tenant")
    if [row async for row in client.list_workflows(query)]:
        raise AssertionError(f"{foreign.id!r} is listed for another tenant")
