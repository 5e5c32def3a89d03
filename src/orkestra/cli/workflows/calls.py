"""What every command of a workflow does around its call: connect, name failures, print."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from orkestra.cli.output import write_json, write_line
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


def tell(as_json: bool, told: Mapping[str, Any], line: str) -> None:  # noqa: FBT001 - a printer
    """Print what was done, as JSON or in a line."""
    if as_json:
        write_json(told)
    else:
        write_line(line)
