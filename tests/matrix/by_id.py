"""Rows: calls that name a workflow by its ID and have no place for a header."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    PauseWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from orkestra import ForbiddenOperationError
from tests.matrix.model import NO_CODE, Cell, Check, Impossible, Row
from tests.matrix.side import (
    TENANT_ID,
    Side,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.waiting import until
from tests.workflows.matrix import Lingers, Whose

Call = Callable[[Client, str], Awaitable[Any]]
"""Takes a client and the tenant's own ID."""


async def cancel(client: Client, name: str) -> None:
    await client.get_workflow_handle(name).cancel()


async def terminate(client: Client, name: str) -> None:
    await client.get_workflow_handle(name).terminate()


async def describe(client: Client, name: str) -> Any:
    return await client.get_workflow_handle(name).describe()


async def history(client: Client, name: str) -> Any:
    return await client.get_workflow_handle(name).fetch_history()


async def result(client: Client, name: str) -> Any:
    return await client.get_workflow_handle(name, result_type=str).result()


def _execution(server_id: str) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=server_id)


async def reset(client: Client, server_id: str) -> str:
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=_execution(server_id),
        reason="matrix",
        request_id=f"reset-{server_id}",
        workflow_task_finish_event_id=4,
    )
    return (await client.workflow_service.reset_workflow_execution(request)).run_id


async def delete(client: Client, server_id: str) -> None:
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=client.namespace, workflow_execution=_execution(server_id)
        )
    )


async def history_reversed(client: Client, server_id: str) -> Any:
    return await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace, execution=_execution(server_id)
        )
    )


async def pause(client: Client, server_id: str) -> None:
    await client.workflow_service.pause_workflow_execution(
        PauseWorkflowExecutionRequest(namespace=client.namespace, workflow_id=server_id)
    )


async def unpause(client: Client, server_id: str) -> None:
    await client.workflow_service.unpause_workflow_execution(
        UnpauseWorkflowExecutionRequest(namespace=client.namespace, workflow_id=server_id)
    )


async def _lingering(side: Side, client: Client) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(Lingers.run, id=side.name(), task_queue=side.queue)


async def _status(side: Side) -> WorkflowExecutionStatus | None:
    return (await side.at_server(side.name()).describe()).status


async def _cancelled(side: Side) -> None:
    handle = await _lingering(side, side.client)
    await until(lambda: _has_begun(handle))
    await cancel(side.client, side.name())
    assert await handle.result() == side.tenant


async def _has_begun(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.describe()).history_length >= 4


async def _terminated(side: Side) -> None:
    await _lingering(side, side.client)
    await terminate(side.client, side.name())
    assert await _status(side) is WorkflowExecutionStatus.TERMINATED


async def _described(side: Side) -> None:
    handle = await _lingering(side, side.client)
    found = await describe(side.client, side.name())
    assert (found.id, found.typed_search_attributes[TENANT_ID]) == (handle.id, side.tenant)


async def _recounted(side: Side) -> None:
    await _lingering(side, side.client)
    found = await history(side.client, side.name())
    started = found.events[0].workflow_execution_started_event_attributes
    assert started.header.fields["tenantId"].data.decode() == f'"{side.tenant}"'


async def _answered(side: Side) -> None:
    await side.client.start_workflow(Whose.run, id=side.name(), task_queue=side.queue)
    assert await result(side.client, side.name()) == side.tenant


async def _reset(side: Side) -> None:
    await side.client.execute_workflow(Whose.run, id=side.name(), task_queue=side.queue)
    run_id = await reset(side.client, side.own(side.name()))
    handle = side.client.get_workflow_handle(side.name(), run_id=run_id)
    assert await handle.result() == side.tenant
    assert (await handle.describe()).typed_search_attributes[TENANT_ID] == side.tenant


async def _deleted(side: Side) -> None:
    await side.client.execute_workflow(Whose.run, id=side.name(), task_queue=side.queue)
    await delete(side.client, side.own(side.name()))
    # The server works it off in its own time, after half a minute and more: a second request is
    # still for the same workflow, and is accepted.
    await delete(side.client, side.own(side.name()))


async def _recounted_backwards(side: Side) -> None:
    await _lingering(side, side.client)
    found = await history_reversed(side.client, side.own(side.name()))
    started = found.history.events[-1].workflow_execution_started_event_attributes
    assert started.header.fields["tenantId"].data.decode() == f'"{side.tenant}"'


def _hidden(call: Call) -> Check:
    """The Client's own methods scope the ID."""

    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        async with side.mailbox(side.rivals_client, victims_name) as victim:
            for name in (victim.id, victims_name):
                with not_found():
                    await call(side.client, name)

    return Check("not found: the ID is scoped to the caller's own prefix", run)


def _refused(call: Call) -> Check:
    """Raw requests are refused by the guard."""

    async def run(side: Side) -> None:
        async with side.mailbox(side.rivals_client, f"victim-of-{side.tenant}") as victim:
            with pytest.raises(ForbiddenOperationError, match=side.rival):
                await call(side.client, victim.id)

    return Check("the guard refuses the ID before the request is sent", run)


def _missing(call: Call) -> Check:
    async def run(side: Side) -> None:
        await refused_without_tenant(side, lambda client: call(client, side.own(side.name())))

    return Check("refused before it is sent", run)


def _mismatch(call: Call) -> Check:
    async def run(side: Side) -> None:
        await refused_for_two(side, lambda client: call(client, side.own(side.name())))

    return Check("in another tenant's scope: refused before it is sent", run)


def _row(
    kind: str,
    call: Call,
    carried: Cell,
    *,
    calls: str = "",
    rpcs: str = "",
    replay: Cell | None = NO_CODE,
) -> Row:
    return Row(
        kind=kind,
        calls=calls,
        rpcs=rpcs,
        carried=carried,
        missing=_missing(call),
        mismatch=_mismatch(call),
        other=_hidden(call) if calls else _refused(call),
        replay=replay,
    )


_UNSUPPORTED: Final = Impossible(
    "Pausing workflows is not enabled on the embedded server; the ID alone names the tenant."
)

BY_ID: Final = (
    _row(
        "cancel",
        cancel,
        Check("the ID's prefix carries it, and the workflow that is cancelled sees it", _cancelled),
        calls="client.cancel_workflow",
        rpcs="request_cancel_workflow_execution",
        replay=None,
    ),
    _row(
        "terminate",
        terminate,
        Check("the ID's prefix carries it", _terminated),
        calls="client.terminate_workflow",
        rpcs="terminate_workflow_execution",
    ),
    _row(
        "describe",
        describe,
        Check("the ID's prefix carries it", _described),
        calls="client.describe_workflow",
        rpcs="describe_workflow_execution",
    ),
    _row(
        "history",
        history,
        Check("the ID's prefix carries it, and the start event shows it", _recounted),
        calls="client.fetch_workflow_history_events",
        rpcs="get_workflow_execution_history",
    ),
    _row(
        "result",
        result,
        Check("the ID's prefix carries it", _answered),
        calls="client.fetch_workflow_history_events",
        rpcs="get_workflow_execution_history",
    ),
    _row(
        "reset (raw request)",
        reset,
        Check("the new run has the header and attribute of the first", _reset),
        rpcs="reset_workflow_execution",
        replay=None,
    ),
    _row(
        "delete (raw request)",
        delete,
        Check("the ID's prefix carries it, and the server accepts it", _deleted),
        rpcs="delete_workflow_execution",
    ),
    _row(
        "history in reverse (raw request)",
        history_reversed,
        Check("the ID's prefix carries it, and the start event shows it", _recounted_backwards),
        rpcs="get_workflow_execution_history_reverse",
    ),
    _row("pause (raw request)", pause, _UNSUPPORTED, rpcs="pause_workflow_execution"),
    _row("unpause (raw request)", unpause, _UNSUPPORTED, rpcs="unpause_workflow_execution"),
)
