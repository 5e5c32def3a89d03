"""Rows: signals, queries and updates, of which workflow code sees the sender's tenant."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.client import (
    Client,
    WorkflowQueryFailedError,
    WorkflowUpdateStage,
)

from orkestra import TenantMismatchError
from tests.matrix.model import Check, Row
from tests.matrix.side import (
    Side,
    fails,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.forged_headers import Forging
from tests.workflows.everything import Mailbox

Send = Callable[[Client, str], Awaitable[Any]]


async def signal(client: Client, name: str) -> None:
    await client.get_workflow_handle(name).signal(Mailbox.note, "x")


async def query(client: Client, name: str) -> str:
    _, tenant = await client.get_workflow_handle(name).query(Mailbox.count)
    return tenant


async def update(client: Client, name: str) -> Any:
    return await client.get_workflow_handle(name).execute_update(Mailbox.add, "x")


async def checked_update(client: Client, name: str) -> Any:
    return await client.get_workflow_handle(name).execute_update(Mailbox.add_checked, "x")


async def polled_update(client: Client, name: str) -> Any:
    """Handles made of the ID alone poll for the answer without the interceptors."""
    handle = client.get_workflow_handle(name)
    await handle.start_update(
        Mailbox.add, "x", id="polled", wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    return await handle.get_update_handle("polled").result()


async def _finish(side: Side, name: str) -> list[Any]:
    handle = side.client.get_workflow_handle(name)
    await handle.signal(Mailbox.finish)
    received: list[Any] = await handle.result()
    return received


async def _mailbox(side: Side) -> str:
    name = side.name()
    await side.client.start_workflow(Mailbox.run, id=name, task_queue=side.queue)
    return name


def _carried(send: Send, received: list[str]) -> Check:
    async def run(side: Side) -> None:
        name = await _mailbox(side)
        assert await send(side.client, name) in (None, side.tenant)
        assert await _finish(side, name) == [[text, side.tenant] for text in received]

    return Check("its handler sees it", run)


async def _dropped(client: Client, server_id: str) -> None:
    await signal(client, server_id)


async def _query_refused(client: Client, server_id: str) -> None:
    with pytest.raises(WorkflowQueryFailedError, match="refused"):
        await query(client, server_id)


def _update_refused(send: Send) -> Callable[[Client, str], Awaitable[None]]:
    async def refused(client: Client, server_id: str) -> None:
        with fails("TenantMismatch"):
            await send(client, server_id)

    return refused


def _missing(send: Send, by_worker: Callable[[Client, str], Awaitable[None]], what: str) -> Check:
    async def run(side: Side) -> None:
        name = await _mailbox(side)
        await refused_without_tenant(side, lambda client: send(client, name))
        await by_worker(side.raw, side.own(name))
        assert await _finish(side, name) == []

    return Check(f"refused before it is sent; sent without Orkestra, {what}", run)


def _mismatch(send: Send, by_worker: Callable[[Client, str], Awaitable[None]], what: str) -> Check:
    async def run(side: Side) -> None:
        name = await _mailbox(side)
        await refused_for_two(side, lambda client: send(client, name))
        with pytest.raises(TenantMismatchError, match=side.rival):
            await send(side.bound(side.tenant, Forging(side.rival)), name)
        await by_worker(side.forging, side.own(name))
        assert await _finish(side, name) == []

    return Check(
        f"another tenant's scope or header: refused before it is sent; a forged header: {what}", run
    )


def _other(send: Send) -> Check:
    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        async with side.mailbox(side.rivals_client, victims_name) as victim:
            for name in (victim.id, victims_name):
                with not_found():
                    await send(side.client, name)
            assert tuple(await victim.query(Mailbox.count)) == (0, side.rival)

    return Check("not found: the ID is scoped to the caller's own prefix", run)


def _row(
    kind: str,
    send: Send,
    *,
    received: list[str],
    by_worker: Callable[[Client, str], Awaitable[None]],
    what: str,
    calls: str,
    rpcs: str,
) -> Row:
    return Row(
        kind=kind,
        calls=calls,
        rpcs=rpcs,
        carried=_carried(send, received),
        missing=_missing(send, by_worker, what),
        mismatch=_mismatch(send, by_worker, what),
        other=_other(send),
    )


_UPDATES: Final = "client.start_workflow_update inbound.handle_update_handler"
_FAILS: Final = "it fails for its caller only"

MESSAGES: Final = (
    _row(
        "signal",
        signal,
        received=["signal x"],
        by_worker=_dropped,
        what="it is dropped and the workflow continues",
        calls="client.signal_workflow inbound.handle_signal",
        rpcs="signal_workflow_execution",
    ),
    _row(
        "query",
        query,
        received=[],
        by_worker=_query_refused,
        what=_FAILS,
        calls="client.query_workflow inbound.handle_query",
        rpcs="query_workflow",
    ),
    _row(
        "update without validator",
        update,
        received=["update x"],
        by_worker=_update_refused(update),
        what=_FAILS,
        calls=_UPDATES,
        rpcs="update_workflow_execution",
    ),
    _row(
        "update with validator",
        checked_update,
        received=["update x"],
        by_worker=_update_refused(checked_update),
        what=_FAILS,
        calls=f"{_UPDATES} inbound.handle_update_validator",
        rpcs="update_workflow_execution",
    ),
    _row(
        "update, polled for by ID",
        polled_update,
        received=["update x"],
        by_worker=_update_refused(polled_update),
        what=_FAILS,
        calls=_UPDATES,
        rpcs="update_workflow_execution poll_workflow_execution_update",
    ),
)
