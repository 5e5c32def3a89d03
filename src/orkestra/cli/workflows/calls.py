"""What every command of a workflow does around its call: connect and name failures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from orkestra.cli.workflows.acting import Actor
from orkestra.errors import ExecutionNotFoundError, OrkestraError

_Done = TypeVar("_Done")


class CallFailedError(OrkestraError):
    """The server, or the workflow, said no."""


def perform(actor: Actor, call: Callable[[Client], Awaitable[_Done]], what: str) -> _Done:
    """Make a call with a client of the actor.

    Args:
        actor: Who acts.
        call: The call.
        what: What it is about, for the error: `workflow 'order-42'`.

    Returns:
        What the call returned.

    Raises:
        ExecutionNotFoundError: The server does not know it.
        CallFailedError: The server or the workflow refused.
    """

    async def connected() -> _Done:
        async with actor.client() as client:
            return await call(client)

    try:
        return asyncio.run(connected())
    except WorkflowAlreadyStartedError as error:
        raise CallFailedError(f"{what} runs already: choose another --id") from error
    except (WorkflowFailureError, WorkflowUpdateFailedError, WorkflowQueryFailedError) as error:
        raise CallFailedError(f"{what}: {reason(error)}") from error
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ExecutionNotFoundError(f"{what} does not exist, or has ended") from error
        raise CallFailedError(f"{what}: {error.status.name}: {error.message}") from error


def perform_on(
    actor: Actor,
    workflow_id: str,
    run_id: str | None,
    call: Callable[[WorkflowHandle[Any, Any]], Awaitable[_Done]],
    *,
    what: str = "",
) -> tuple[str, _Done]:
    """Make a call to a workflow.

    Args:
        actor: Who acts.
        workflow_id: Its ID.
        run_id: Its run; None means the latest.
        call: The call.
        what: What of the workflow the call is about, for the error: `query 'status'`.

    Returns:
        The ID that the server knows it by, and what the call returned.

    Raises:
        ExecutionNotFoundError: The server does not know it.
        CallFailedError: The server or the workflow refused.
    """

    async def called(client: Client) -> tuple[str, _Done]:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        return handle.id, await call(handle)

    workflow = f"workflow {workflow_id!r}"
    return perform(actor, called, f"{what} of {workflow}" if what else workflow)


def reason(error: BaseException) -> str:
    """Why a workflow, query or update failed: the message of every cause, the deepest last."""
    told: list[str] = []
    found: BaseException | None = error.__cause__ or error
    while found is not None:
        kind = getattr(found, "type", None) or type(found).__name__
        message = getattr(found, "message", None) or str(found)
        told.append(f"{kind}: {message}" if message else str(kind))
        found = found.__cause__
    return ", because of ".join(told)
