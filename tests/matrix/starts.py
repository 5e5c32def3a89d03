"""Rows: calls by which a client starts workflows."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from orkestra import TenantMismatchError
from tests.matrix.model import Check, Row
from tests.matrix.side import (
    TENANT_ID,
    Side,
    attribute,
    fails,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.forged_headers import Forging, tenant_header
from tests.workflows.everything import Mailbox
from tests.workflows.matrix import Whose

Start = Callable[..., Awaitable[Any]]
"""Takes the side, a client, an ID and options; returns the tenant that the workflow sees."""


async def start(side: Side, client: Client, name: str, **options: Any) -> Any:
    handle = await client.start_workflow(Whose.run, id=name, task_queue=side.queue, **options)
    return await handle.result()


async def execute(side: Side, client: Client, name: str, **options: Any) -> Any:
    return await client.execute_workflow(Whose.run, id=name, task_queue=side.queue, **options)


async def eager_start(side: Side, client: Client, name: str, **options: Any) -> Any:
    return await start(side, client, name, request_eager_start=True, **options)


async def signal_with_start(side: Side, client: Client, name: str, **options: Any) -> Any:
    handle = await client.start_workflow(
        Mailbox.run,
        id=name,
        task_queue=side.queue,
        start_signal="note",
        start_signal_args=["first"],
        **options,
    )
    await handle.signal(Mailbox.finish)
    [[text, tenant]] = await handle.result()
    assert text == "signal first"
    return tenant


async def update_with_start(side: Side, client: Client, name: str, **options: Any) -> Any:
    operation = WithStartWorkflowOperation(
        Mailbox.run,
        id=name,
        task_queue=side.queue,
        **{"id_conflict_policy": WorkflowIDConflictPolicy.FAIL, **options},
    )
    seen = await client.execute_update_with_start_workflow(
        Mailbox.add, "first", start_workflow_operation=operation
    )
    handle = await operation.workflow_handle()
    await handle.signal(Mailbox.finish)
    [[text, tenant]] = await handle.result()
    assert (text, seen) == ("update first", tenant)
    return tenant


def _carried(call: Start) -> Check:
    async def run(side: Side) -> None:
        name = side.name()
        assert await call(side, side.client, name) == side.tenant
        description = await side.at_server(name).describe()
        assert description.typed_search_attributes[TENANT_ID] == side.tenant
        assert description.raw_info.priority.fairness_key == side.tenant
        started = (await side.at_server(name).fetch_history()).events[0]
        headers = started.workflow_execution_started_event_attributes.header.fields
        assert headers["tenantId"] == tenant_header(side.tenant)["tenantId"]

    return Check(
        "the workflow sees it; header, search attribute, fairness key and ID prefix show it", run
    )


def _missing(call: Start) -> Check:
    async def run(side: Side) -> None:
        await refused_without_tenant(side, lambda client: call(side, client, side.name()))
        await side.absent(side.name())
        with fails("TenantRequired"):
            await call(side, side.raw, f"raw-{side.own(side.name())}")

    return Check("refused before it is sent; sent without Orkestra, refused by the worker", run)


def _mismatch(call: Start) -> Check:
    async def run(side: Side) -> None:
        name = side.name()
        await refused_for_two(side, lambda client: call(side, client, name))
        attempts: list[tuple[Client, dict[str, Any]]] = [
            (side.client, {"search_attributes": attribute(side.rival)}),
            (side.client, {"memo": {"tenantId": side.rival}}),
            (side.bound(side.tenant, Forging(side.rival)), {}),
        ]
        for client, options in attempts:
            with pytest.raises(TenantMismatchError, match=side.rival):
                await call(side, client, name, **options)
        await side.absent(side.own(name))
        with fails("TenantMismatch"):
            await call(side, side.forging, side.own(name))

    return Check(
        "another tenant's header, memo, attribute or scope: refused before it is sent; header and"
        " ID in disagreement: refused by the worker",
        run,
    )


def _other(call: Start) -> Check:
    async def run(side: Side) -> None:
        async with side.mailbox(side.rivals_client, side.name("victim")) as victim:
            for policy in (
                WorkflowIDConflictPolicy.USE_EXISTING,
                WorkflowIDConflictPolicy.TERMINATE_EXISTING,
            ):
                seen = await call(side, side.client, victim.id, id_conflict_policy=policy)
                assert seen == side.tenant
            assert tuple(await victim.query(Mailbox.count)) == (0, side.rival)
            await side.at_server(victim.id).describe()

    return Check(
        "the ID of another's workflow starts one of the caller's own, whatever the policy", run
    )


def _other_update(call: Start) -> Check:
    async def run(side: Side) -> None:
        async with side.mailbox(side.rivals_client, side.name("victim")) as victim:
            policy = WorkflowIDConflictPolicy.USE_EXISTING
            assert (
                await call(side, side.client, victim.id, id_conflict_policy=policy) == side.tenant
            )
            assert tuple(await victim.query(Mailbox.count)) == (0, side.rival)

    return Check("the ID of another's workflow starts and updates one of the caller's own", run)


def _row(kind: str, call: Start, calls: str, rpcs: str) -> Row:
    other = _other_update if call is update_with_start else _other
    return Row(
        kind=kind,
        calls=calls,
        rpcs=rpcs,
        carried=_carried(call),
        missing=_missing(call),
        mismatch=_mismatch(call),
        other=other(call),
    )


INBOUND: Final = "inbound.init inbound.execute_workflow worker.workflow_interceptor_class"

STARTS: Final = (
    _row("start", start, f"client.start_workflow {INBOUND}", "start_workflow_execution"),
    _row("execute", execute, "client.start_workflow", "start_workflow_execution"),
    _row("eager start", eager_start, "client.start_workflow", "start_workflow_execution"),
    _row(
        "signal-with-start",
        signal_with_start,
        "client.start_workflow inbound.handle_signal",
        "signal_with_start_workflow_execution",
    ),
    _row(
        "update-with-start",
        update_with_start,
        "client.start_update_with_start_workflow inbound.handle_update_handler",
        "execute_multi_operation",
    ),
)
