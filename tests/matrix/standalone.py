"""Rows: activities that a client starts without a workflow."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.api.workflowservice.v1 import (
    DeleteActivityExecutionRequest,
    ResetActivityExecutionRequest,
)
from temporalio.client import ActivityFailureError, ActivityOptionsKeys, Client
from temporalio.common import ActivityIDConflictPolicy
from temporalio.exceptions import CancelledError, TerminatedError

from orkestra import ForbiddenOperationError, TenantMismatchError
from tests.matrix.model import Cell, Check, Impossible, Row
from tests.matrix.side import (
    TENANT_ID,
    Side,
    attribute,
    fails,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.forged_headers import Forging
from tests.support.waiting import PATIENTLY
from tests.workflows.activities import waits_for_cancellation, whose_activity

Call = Callable[[Side, Client, str], Awaitable[Any]]
"""Takes the side, a client and the activity's ID."""


async def start(side: Side, client: Client, name: str, **options: Any) -> Any:
    handle = await client.start_activity(
        whose_activity,
        id=name,
        task_queue=side.queue,
        start_to_close_timeout=PATIENTLY,
        **options,
    )
    return await handle.result()


async def wait(side: Side, client: Client, name: str) -> None:
    """Start an activity that waits to be cancelled."""
    await client.start_activity(
        waits_for_cancellation,
        id=name,
        task_queue=side.queue,
        start_to_close_timeout=PATIENTLY,
        heartbeat_timeout=PATIENTLY,
    )


async def describe(side: Side, client: Client, name: str) -> Any:
    return await client.get_activity_handle(name).describe()


async def result(side: Side, client: Client, name: str) -> Any:
    return await client.get_activity_handle(name).result()


async def cancel(side: Side, client: Client, name: str) -> None:
    await client.get_activity_handle(name).cancel()


async def terminate(side: Side, client: Client, name: str) -> None:
    await client.get_activity_handle(name).terminate()


async def pause(side: Side, client: Client, name: str) -> None:
    await client.get_activity_handle(name).pause()


async def unpause(side: Side, client: Client, name: str) -> None:
    await client.get_activity_handle(name).unpause()


async def change_options(side: Side, client: Client, name: str) -> None:
    change = ActivityOptionsKeys.heartbeat_timeout.value_set(2 * PATIENTLY)
    await client.get_activity_handle(name).update_options([change])


async def delete(side: Side, client: Client, server_id: str) -> None:
    await client.workflow_service.delete_activity_execution(
        DeleteActivityExecutionRequest(namespace=client.namespace, activity_id=server_id)
    )


async def reset(side: Side, client: Client, server_id: str) -> None:
    await client.workflow_service.reset_activity_execution(
        ResetActivityExecutionRequest(namespace=client.namespace, activity_id=server_id)
    )


async def _started(side: Side) -> None:
    assert await start(side, side.client, side.name()) == side.tenant
    found = await side.raw.get_activity_handle(side.own(side.name())).describe()
    assert found.typed_search_attributes[TENANT_ID] == side.tenant
    assert found.priority.fairness_key == side.tenant


async def _missing_start(side: Side) -> None:
    await refused_without_tenant(side, lambda client: start(side, client, side.name()))
    with fails("TenantRequired"):
        await start(side, side.raw, side.own(side.name()))


async def _mismatch_start(side: Side) -> None:
    await refused_for_two(side, lambda client: start(side, client, side.name()))
    foreign = attribute(side.rival)
    with pytest.raises(TenantMismatchError, match=side.rival):
        await start(side, side.client, side.name(), search_attributes=foreign)
    with pytest.raises(TenantMismatchError, match=side.rival):
        await start(side, side.bound(side.tenant, Forging(side.rival)), side.name())
    with not_found():
        await side.raw.get_activity_handle(side.own(side.name())).describe()
    with fails("TenantMismatch"):
        await start(side, side.forging, side.own(side.name()))


async def _other_start(side: Side) -> None:
    victims_id = f"{side.rival}:victim-of-{side.tenant}"
    await wait(side, side.rivals_client, victims_id)
    policy = ActivityIDConflictPolicy.USE_EXISTING
    seen = await start(side, side.client, victims_id, id_conflict_policy=policy)
    assert seen == side.tenant
    await terminate(side, side.rivals_client, victims_id)


async def _described(side: Side) -> None:
    await start(side, side.client, side.name())
    found = await describe(side, side.client, side.name())
    assert found.typed_search_attributes[TENANT_ID] == side.tenant


async def _polled(side: Side) -> None:
    await start(side, side.client, side.name())
    assert await result(side, side.client, side.name()) == side.tenant


async def _cancelled(side: Side) -> None:
    await wait(side, side.client, side.name())
    await cancel(side, side.client, side.name())
    await _ends_with(side, CancelledError)


async def _terminated(side: Side) -> None:
    await wait(side, side.client, side.name())
    await terminate(side, side.client, side.name())
    await _ends_with(side, TerminatedError)


async def _ends_with(side: Side, kind: type[Exception]) -> None:
    with pytest.raises(ActivityFailureError) as caught:
        await side.raw.get_activity_handle(side.own(side.name())).result()
    assert isinstance(caught.value.cause, kind)


def _accepted(call: Call, *before: Call) -> Check:
    async def run(side: Side) -> None:
        await wait(side, side.client, side.name())
        for each in (*before, call):
            await each(side, side.client, side.own(side.name()))
        if call is not delete:
            await terminate(side, side.raw, side.own(side.name()))

    return Check("the ID's prefix carries it, and the server accepts it", run)


def _missing(call: Call) -> Check:
    async def run(side: Side) -> None:
        own = side.own(side.name())
        if call is result:
            await start(side, side.client, side.name())
        await refused_without_tenant(side, lambda client: call(side, client, own))

    return Check("refused before it is sent", run)


def _mismatch(call: Call) -> Check:
    async def run(side: Side) -> None:
        await refused_for_two(side, lambda client: call(side, client, side.own(side.name())))

    return Check("in another tenant's scope: refused before it is sent", run)


def _hidden(call: Call) -> Check:
    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        victims_id = f"{side.rival}:{victims_name}"
        await wait(side, side.rivals_client, victims_name)
        for name in (victims_name, victims_id):
            with not_found():
                await call(side, side.client, name)
        await terminate(side, side.rivals_client, victims_name)

    return Check("not found: the ID is scoped to the caller's own prefix", run)


def _refused(call: Call) -> Check:
    async def run(side: Side) -> None:
        with pytest.raises(ForbiddenOperationError, match=side.rival):
            await call(side, side.client, f"{side.rival}:victim")

    return Check("the guard refuses the ID before the request is sent", run)


_NO_WORKFLOW: Final = Impossible("A standalone activity has no history to replay.")


def _row(kind: str, call: Call, carried: Cell, *, calls: str = "", rpcs: str = "") -> Row:
    is_raw = not calls and call is not result
    return Row(
        kind=f"standalone activity: {kind}",
        calls=calls,
        rpcs=rpcs,
        carried=carried,
        missing=_missing(call),
        mismatch=_mismatch(call),
        other=_refused(call) if is_raw else _hidden(call),
        replay=_NO_WORKFLOW,
    )


_PREFIX: Final = "the ID's prefix carries it"

STANDALONE: Final = (
    Row(
        kind="standalone activity: start",
        calls="client.start_activity activity.execute_activity worker.intercept_activity",
        rpcs="start_activity_execution poll_activity_execution",
        carried=Check("the activity sees it; attribute, fairness key and prefix show it", _started),
        missing=Check(
            "refused before it is sent; sent without Orkestra, refused by the worker",
            _missing_start,
        ),
        mismatch=Check(
            "another tenant's scope, header or attribute: refused before it is sent; header and ID"
            " in disagreement: refused by the worker",
            _mismatch_start,
        ),
        other=Check("the ID of another's activity starts one of the caller's own", _other_start),
        replay=_NO_WORKFLOW,
    ),
    _row(
        "describe",
        describe,
        Check(_PREFIX, _described),
        calls="client.describe_activity",
        rpcs="describe_activity_execution",
    ),
    _row(
        "result",
        result,
        Check("the guard scopes the ID, as the SDK polls without interceptors", _polled),
        rpcs="poll_activity_execution",
    ),
    _row(
        "cancel",
        cancel,
        Check("the ID's prefix carries it, and the activity is cancelled", _cancelled),
        calls="client.cancel_activity",
        rpcs="request_cancel_activity_execution",
    ),
    _row(
        "terminate",
        terminate,
        Check(_PREFIX, _terminated),
        calls="client.terminate_activity",
        rpcs="terminate_activity_execution",
    ),
    _row(
        "pause",
        pause,
        _accepted(pause),
        calls="client.pause_activity",
        rpcs="pause_activity_execution",
    ),
    _row(
        "unpause",
        unpause,
        _accepted(unpause, pause),
        calls="client.unpause_activity",
        rpcs="unpause_activity_execution",
    ),
    _row(
        "change of options",
        change_options,
        _accepted(change_options),
        calls="client.update_activity_options",
        rpcs="update_activity_execution_options",
    ),
    _row("reset (raw request)", reset, _accepted(reset), rpcs="reset_activity_execution"),
    _row("delete (raw request)", delete, _accepted(delete), rpcs="delete_activity_execution"),
)
