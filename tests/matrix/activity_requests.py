"""Rows: raw requests about the activities of workflows."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    ResetActivityRequest,
    UnpauseActivityRequest,
    UpdateActivityOptionsRequest,
)
from temporalio.client import Client

from orkestra import ForbiddenOperationError
from tests.matrix.asynchronous import pending
from tests.matrix.model import NO_CODE, Check, Row
from tests.matrix.side import Side, refused_for_two, refused_without_tenant

Raw = Callable[[Client, str], Awaitable[Any]]
"""Takes a client and the workflow's ID on the server."""


async def pause(client: Client, workflow_id: str) -> None:
    execution = WorkflowExecution(workflow_id=workflow_id)
    await client.workflow_service.pause_activity(
        PauseActivityRequest(namespace=client.namespace, execution=execution, id="async")
    )


async def unpause(client: Client, workflow_id: str) -> None:
    execution = WorkflowExecution(workflow_id=workflow_id)
    await client.workflow_service.unpause_activity(
        UnpauseActivityRequest(namespace=client.namespace, execution=execution, id="async")
    )


async def reset(client: Client, workflow_id: str) -> None:
    execution = WorkflowExecution(workflow_id=workflow_id)
    await client.workflow_service.reset_activity(
        ResetActivityRequest(namespace=client.namespace, execution=execution, id="async")
    )


async def change_options(client: Client, workflow_id: str) -> None:
    execution = WorkflowExecution(workflow_id=workflow_id)
    options = ActivityOptions(start_to_close_timeout=Duration(seconds=60))
    request = UpdateActivityOptionsRequest(
        namespace=client.namespace, execution=execution, id="async", activity_options=options
    )
    request.update_mask.paths.append("start_to_close_timeout")
    await client.workflow_service.update_activity_options(request)


def _row(kind: str, call: Raw, rpc: str) -> Row:
    async def carried(side: Side) -> None:
        workflow = await pending(side, side.tenant, side.name())
        await call(side.client, side.own(side.name()))
        await workflow.terminate()

    async def missing(side: Side) -> None:
        await refused_without_tenant(side, lambda client: call(client, side.own("x")))

    async def mismatch(side: Side) -> None:
        await refused_for_two(side, lambda client: call(client, side.own("x")))

    async def other(side: Side) -> None:
        with pytest.raises(ForbiddenOperationError, match=side.rival):
            await call(side.client, f"{side.rival}:x")

    return Row(
        kind=f"activity {kind} (raw request)",
        rpcs=rpc,
        carried=Check("the workflow ID's prefix carries it, and the server accepts it", carried),
        missing=Check("refused before it is sent", missing),
        mismatch=Check("in another tenant's scope: refused before it is sent", mismatch),
        other=Check("the guard refuses the ID before the request is sent", other),
        replay=NO_CODE,
    )


ACTIVITY_REQUESTS: Final = (
    _row("pause", pause, "pause_activity"),
    _row("unpause", unpause, "unpause_activity"),
    _row("reset", reset, "reset_activity"),
    _row("change of options", change_options, "update_activity_options"),
)
