"""Rows: the clients that activities and Nexus handlers ask the SDK for."""

from typing import Final

import pytest
from nexusrpc import HandlerError
from temporalio.client import WorkflowFailureError

from tests.matrix.commands import Test, do, do_elsewhere
from tests.matrix.model import Check, Row
from tests.matrix.side import Side, causes, fails
from tests.workflows.matrix import Order


def _order(side: Side, by: str, request: str) -> Order:
    if by == "nexus":
        return Order("nexus", f"asks {request}", endpoint=side.endpoint)
    return Order("own_client", request)


def _started(by: str) -> Test:
    async def run(side: Side) -> None:
        order = _order(side, by, f"start {side.name('of-task')}")
        assert await do(side, side.client, order) == side.own(side.name("of-task"))
        assert await side.at_server(side.name("of-task")).result() == side.tenant

    return run


async def _activity_missing(side: Side) -> None:
    with fails("TenantRequired"):
        await do_elsewhere(side, Order("own_client", "describe w", side.queue))


async def _operation_missing(side: Side) -> None:
    with pytest.raises(WorkflowFailureError) as caught:
        await do_elsewhere(side, _order(side, "nexus", "describe w"))
    assert any(isinstance(error, HandlerError) for error in causes(caught.value))


def _mismatch(by: str) -> Test:
    async def run(side: Side) -> None:
        answer = await do(side, side.client, _order(side, by, f"scope {side.rival}"))
        assert answer.startswith(f"cannot enter tenant '{side.rival}'")

    return run


def _other(by: str) -> Test:
    async def run(side: Side) -> None:
        async with side.mailbox(side.rivals_client, side.name("victim")) as victim:
            answer = await do(side, side.client, _order(side, by, f"describe {victim.id}"))
            assert "not found" in answer

    return run


def _row(kind: str, by: str, missing: Test) -> Row:
    return Row(
        kind=kind,
        carried=Check("what it starts is the tenant's, and sees it", _started(by)),
        missing=Check("a task without a tenant is refused before its code runs", missing),
        mismatch=Check("the code cannot enter another tenant's scope", _mismatch(by)),
        other=Check("another's workflow is not found", _other(by)),
    )


TASK_CLIENTS: Final = (
    _row("`activity.client()`", "activity", _activity_missing),
    _row("`nexus.client()`", "nexus", _operation_missing),
)
