"""Rows: heartbeats, and activities of workflows that others heartbeat and complete."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.client import AsyncActivityHandle, Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from orkestra import ForbiddenOperationError
from tests.matrix.model import NO_CODE, Cell, Check, Impossible, Row
from tests.matrix.side import (
    Side,
    fails,
    not_found,
    refused_for_two,
    refused_without_tenant,
)
from tests.support.waiting import PATIENTLY, until
from tests.workflows.activities import TOKENS, completed_elsewhere
from tests.workflows.matrix import Does, Order

Act = Callable[[AsyncActivityHandle], Awaitable[Any]]


async def complete(handle: AsyncActivityHandle) -> None:
    await handle.complete("done")


async def fail(handle: AsyncActivityHandle) -> None:
    await handle.fail(ApplicationError("no", type="Given", non_retryable=True))


async def heartbeat(handle: AsyncActivityHandle) -> None:
    await handle.heartbeat("half", "way")


async def report_cancellation(handle: AsyncActivityHandle) -> None:
    await handle.report_cancellation("stopped")


def handle_of(client: Client, workflow_id: str) -> AsyncActivityHandle:
    """The activity by IDs, as the caller writes them."""
    return client.get_async_activity_handle(
        workflow_id=workflow_id, run_id=None, activity_id="async"
    )


async def pending(side: Side, tenant: str, name: str) -> WorkflowHandle[Any, Any]:
    """A workflow of the tenant whose activity waits to be completed from elsewhere."""
    handle = await side.bound(tenant).start_workflow(
        Does.run, Order("asynchronous"), id=name, task_queue=side.queue
    )

    async def waits() -> bool:
        return handle.id in TOKENS

    await until(waits)
    return handle


async def _completed(side: Side) -> None:
    workflow = await pending(side, side.tenant, side.name())
    await complete(handle_of(side.client, side.name()))
    assert await workflow.result() == "done"


async def _failed(side: Side) -> None:
    workflow = await pending(side, side.tenant, side.name())
    await fail(handle_of(side.client, side.name()))
    with fails("Given"):
        await workflow.result()


async def _heartbeaten(side: Side) -> None:
    workflow = await pending(side, side.tenant, side.name())
    await heartbeat(handle_of(side.client, side.name()))

    async def details() -> list[bytes]:
        [activity] = (await workflow.describe()).raw_description.pending_activities
        return [payload.data for payload in activity.heartbeat_details.payloads]

    assert await until(details) == [b'"half"', b'"way"']
    await workflow.terminate()


async def _cancellation_reported(side: Side) -> None:
    workflow = await pending(side, side.tenant, side.name())
    await workflow.cancel()

    async def is_asked_to_stop() -> bool:
        [activity] = (await workflow.describe()).raw_description.pending_activities
        return activity.state == 3  # PENDING_ACTIVITY_STATE_CANCEL_REQUESTED

    await until(is_asked_to_stop)
    await report_cancellation(handle_of(side.client, side.name()))
    with pytest.raises(WorkflowFailureError):
        await workflow.result()


async def _standalone(side: Side) -> None:
    started = await side.client.start_activity(
        completed_elsewhere,
        id=side.name(),
        task_queue=side.queue,
        start_to_close_timeout=PATIENTLY,
    )

    async def waits() -> bool:
        return started.id in TOKENS

    await until(waits)
    await complete(side.client.get_async_activity_handle(activity_id=side.name()))
    assert await started.result() == "done"


def _missing(act: Act) -> Check:
    async def run(side: Side) -> None:
        await refused_without_tenant(side, lambda client: act(handle_of(client, side.name())))

    return Check("refused before it is sent", run)


def _mismatch(act: Act) -> Check:
    async def run(side: Side) -> None:
        await refused_for_two(side, lambda client: act(handle_of(client, side.name())))

    return Check("in another tenant's scope: refused before it is sent", run)


def _other(act: Act) -> Check:
    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        victim = await pending(side, side.rival, victims_name)
        for name in (victims_name, victim.id):
            with not_found():
                await act(handle_of(side.client, name))
        await complete(handle_of(side.rivals_client, victims_name))
        assert await victim.result() == "done"

    return Check("not found: the ID is scoped to the caller's own prefix", run)


async def _other_standalone(side: Side) -> None:
    victims_name = f"victim-of-{side.tenant}"
    started = await side.rivals_client.start_activity(
        completed_elsewhere,
        id=victims_name,
        task_queue=side.queue,
        start_to_close_timeout=PATIENTLY,
    )
    for name in (victims_name, started.id):
        with not_found():
            await complete(side.client.get_async_activity_handle(activity_id=name))
    await started.terminate()


async def _tokens_refused(side: Side) -> None:
    victim = await pending(side, side.rival, f"victim-of-{side.tenant}")
    own = await pending(side, side.tenant, side.name())
    for workflow in (victim, own):
        stolen = side.client.get_async_activity_handle(task_token=TOKENS[workflow.id])
        for act in (complete, fail, heartbeat, report_cancellation):
            with pytest.raises(ForbiddenOperationError, match="task token"):
                await act(stolen)
        await workflow.terminate()


async def _token_without_tenant(side: Side) -> None:
    await refused_without_tenant(
        side, lambda client: complete(client.get_async_activity_handle(task_token=b"token"))
    )


async def _token_for_two(side: Side) -> None:
    await refused_for_two(
        side, lambda client: complete(client.get_async_activity_handle(task_token=b"token"))
    )


async def _heartbeat_within(side: Side) -> None:
    seen = await side.client.execute_workflow(
        Does.run, Order("heartbeat"), id=side.name(), task_queue=side.queue
    )
    assert seen == [side.tenant, "progress", side.tenant]


def _row(kind: str, act: Act, carried: Cell, *, calls: str, rpcs: str) -> Row:
    return Row(
        kind=f"async activity by ID: {kind}",
        calls=calls,
        rpcs=rpcs,
        carried=carried,
        missing=_missing(act),
        mismatch=_mismatch(act),
        other=_other(act),
    )


_PREFIX: Final = "the workflow ID's prefix carries it"
_OWN_TASK: Final = Impossible(
    "A heartbeat carries the token of its own task, which the worker has checked."
)

ASYNCHRONOUS: Final = (
    Row(
        kind="heartbeat with details",
        calls="activity.init activity_outbound.heartbeat activity_outbound.info",
        carried=Check("the next attempt sees it, and the details of the last", _heartbeat_within),
        missing=_OWN_TASK,
        mismatch=_OWN_TASK,
        other=_OWN_TASK,
    ),
    _row(
        "heartbeat",
        heartbeat,
        Check(_PREFIX, _heartbeaten),
        calls="client.heartbeat_async_activity",
        rpcs="record_activity_task_heartbeat_by_id",
    ),
    _row(
        "complete",
        complete,
        Check(_PREFIX, _completed),
        calls="client.complete_async_activity",
        rpcs="respond_activity_task_completed_by_id",
    ),
    _row(
        "fail",
        fail,
        Check(_PREFIX, _failed),
        calls="client.fail_async_activity",
        rpcs="respond_activity_task_failed_by_id",
    ),
    _row(
        "report a cancellation",
        report_cancellation,
        Check(_PREFIX, _cancellation_reported),
        calls="client.report_cancellation_async_activity",
        rpcs="respond_activity_task_canceled_by_id",
    ),
    Row(
        kind="async standalone activity by ID",
        calls="client.complete_async_activity",
        rpcs="respond_activity_task_completed_by_id",
        carried=Check("the activity ID's prefix carries it", _standalone),
        missing=_missing(complete),
        mismatch=_mismatch(complete),
        other=Check("it does not exist", _other_standalone),
        replay=Impossible("A standalone activity has no history to replay."),
    ),
    Row(
        kind="async activity by token",
        calls="client.complete_async_activity client.heartbeat_async_activity",
        carried=Impossible(
            "A task token can be forged and does not prove whose activity it names: it is refused."
        ),
        missing=Check("refused before it is sent", _token_without_tenant),
        mismatch=Check("in another tenant's scope: refused before it is sent", _token_for_two),
        other=Check("every token is refused, stolen or own", _tokens_refused),
        replay=NO_CODE,
    ),
)
