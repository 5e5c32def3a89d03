"""`assert_isolated()`: run a workflow for two tenants at once and look for leaks between them."""

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
    """Run a workflow for two tenants at once, with one ID, and assert that they are isolated.

    Both workflows must complete. Neither tenant may reach the other's workflow, not even by its ID
    on the server, or find it in a list. No history and no trace of one may contain the ID of the
    other.

    Args:
        environment: Environment in which a worker polls the task queue.
        workflow: The workflow's run method, or its name.
        args: Arguments, the same for both.
        task_queue: The worker's queue.
        timeout: Time limit for the workflows.
        options: Any other option of `start_workflow()`.

    Returns:
        The results by tenant.

    Raises:
        AssertionError: Something leaks; the message says what.
        ValueError: The server skips time. It has no lists, and time jumps while one of the two
            waits.

    Example:
        ```python
        results = await assert_isolated(environment, Order.run, "book", task_queue=queue)
        ```
    """
    if environment.time is not None:
        msg = "isolation cannot be tested while time is skipped: use OrkestraEnvironment.local()"
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
        # Before the results: a closed workflow refuses signals and updates from anyone.
        await _assert_unreachable(clients[tenants[mine]], started[other])
    async with asyncio.timeout(timeout.total_seconds()):
        # Both complete, so none of the attempts has cancelled or terminated one.
        results = await asyncio.gather(*(handle.result() for handle in started))
    for mine, other in ((0, 1), (1, 0)):
        await _assert_unmentioned(environment, started[mine], tenants[other])
        await _assert_unlisted(clients[tenants[mine]], started[other])
    return dict(zip(tenants, results, strict=True))


async def _assert_unreachable(client: Client, foreign: WorkflowHandle[Any, Any]) -> None:
    """Try every call on a foreign workflow, by its ID on the server and its run."""
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


async def _assert_unmentioned(
    environment: OrkestraEnvironment, handle: WorkflowHandle[Any, Any], other: str
) -> None:
    history = await handle.fetch_history()
    for event in history.events:
        # The bytes of the whole event: headers, memo and payloads are all in it.
        if other.encode() in event.SerializeToString():
            where = f"event {event.event_id} of {handle.id!r}"
            raise AssertionError(f"{where} contains the ID of another tenant")
    trace = await environment.trace_of(handle)
    for root in trace.roots:
        for span in root.walk():
            if other in repr((span.name, span.received.attributes)):
                raise AssertionError(
                    f"span {span.name} of {handle.id!r} contains the ID of another tenant"
                )
    tenant = handle.id.partition(":")[0]
    if trace.tenant != tenant:
        raise AssertionError(f"the trace of {handle.id!r} belongs to {trace.tenant!r}")


async def _assert_unlisted(client: Client, foreign: WorkflowHandle[Any, Any]) -> None:
    # Lists are eventually consistent: only what is listed for the other tenant is an error.
    query = f"RunId = '{foreign.first_execution_run_id}'"
    if (await client.count_workflows(query)).count:
        raise AssertionError(f"{foreign.id!r} is counted for another tenant")
    if [row async for row in client.list_workflows(query)]:
        raise AssertionError(f"{foreign.id!r} is listed for another tenant")
