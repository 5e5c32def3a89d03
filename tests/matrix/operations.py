"""Rows: Nexus operations, whose headers are plain text and arrive in lower case."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from nexusrpc import HandlerError, HandlerErrorType
from temporalio.client import WorkflowFailureError

from tests.matrix.commands import do, do_elsewhere
from tests.matrix.model import Check, Impossible, Row
from tests.matrix.side import TENANT_ID, Side, causes
from tests.workflows.matrix import Order

Test = Callable[[Side], Awaitable[None]]


def _order(side: Side, operation: str, target: str = "") -> Order:
    return Order("nexus", f"{operation} {target}", endpoint=side.endpoint)


def _seen(operation: str) -> Test:
    async def run(side: Side) -> None:
        assert await do(side, side.client, _order(side, operation)) == side.tenant

    return run


async def _workflow_backed(side: Side) -> None:
    order = _order(side, "whose_workflow", side.name("backing"))
    assert await do(side, side.client, order) == side.tenant
    description = await side.at_server(side.name("backing")).describe()
    assert description.typed_search_attributes[TENANT_ID] == side.tenant
    assert description.raw_info.priority.fairness_key == side.tenant


async def _cancelled(side: Side) -> None:
    order = Order("nexus_cancel", side.name("backing"), endpoint=side.endpoint)
    assert await do(side, side.client, order) == side.tenant


def _missing(operation: str) -> Test:
    async def run(side: Side) -> None:
        with pytest.raises(WorkflowFailureError) as caught:
            await do_elsewhere(side, _order(side, operation, "x"))
        [refusal] = [e for e in causes(caught.value) if isinstance(e, HandlerError)]
        assert refusal.type is HandlerErrorType.UNAUTHORIZED

    return run


def _mismatch(operation: str, target: str = "x") -> Test:
    """A user's interceptor writes the header in another case; it is replaced before sending."""

    async def run(side: Side) -> None:
        order = _order(side, operation, target)
        assert await do(side, side.client, order, memo={"forged": side.rival}) == side.tenant

    return run


async def _backing_of_another(side: Side) -> None:
    async with side.mailbox(side.rivals_client, f"victim-of-{side.tenant}") as victim:
        order = _order(side, "whose_workflow", victim.id)
        assert await do(side, side.client, order) == side.tenant


_REFUSED: Final = "by a workflow without Orkestra: refused by the handler's worker"
_OVERWRITTEN: Final = "another tenant's header, in another case: replaced by the tenant's own"
_NAMES_NOTHING: Final = Impossible("The operation names nothing that belongs to a tenant.")

_HOOKS: Final = (
    "outbound.start_nexus_operation nexus.execute_nexus_operation_start"
    " worker.intercept_nexus_operation"
)


def _sync_row(kind: str, operation: str) -> Row:
    return Row(
        kind=f"Nexus operation, {kind}",
        calls=_HOOKS,
        carried=Check("the handler sees it", _seen(operation)),
        missing=Check(_REFUSED, _missing(operation)),
        mismatch=Check(_OVERWRITTEN, _mismatch(operation)),
        other=_NAMES_NOTHING,
    )


OPERATIONS: Final = (
    _sync_row("sync", "whose"),
    _sync_row("sync in a thread", "whose_in_a_thread"),
    Row(
        kind="Nexus operation, workflow-backed",
        calls=_HOOKS,
        carried=Check(
            "handler and workflow see it; attribute, fairness key and ID prefix show it",
            _workflow_backed,
        ),
        missing=Check(_REFUSED, _missing("whose_workflow")),
        mismatch=Check(_OVERWRITTEN, _mismatch("whose_workflow", "forged")),
        other=Check(
            "the ID of another's workflow starts one of the caller's own", _backing_of_another
        ),
    ),
    Row(
        kind="Nexus operation, cancel",
        calls="nexus.execute_nexus_operation_cancel",
        carried=Check("the workflow that is cancelled sees it", _cancelled),
        missing=Impossible("A cancel has the headers of the operation's start."),
        mismatch=Impossible("A cancel has the headers of the operation's start."),
        other=Impossible("Only the workflow that started an operation can name it."),
    ),
)
