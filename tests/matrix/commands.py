"""Commands of workflow code (starts, signals, cancels) and their results."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from tests.matrix.side import TENANT_ID, Side, fails
from tests.workflows.everything import Mailbox
from tests.workflows.matrix import Does, Lingers, Order

Test = Callable[[Side], Awaitable[None]]


TASK_TIMEOUT: Final = timedelta(seconds=4)
"""Without a cache the SDK sometimes loses the result of a local activity until the next try."""


async def do(side: Side, client: Client, order: Order, **options: Any) -> Any:
    """Result of a command of one of the tenant's workflows."""
    return await client.execute_workflow(
        Does.run,
        order,
        id=f"does-{side.suffix}",
        task_queue=side.queue,
        task_timeout=TASK_TIMEOUT,
        **options,
    )


async def do_elsewhere(side: Side, order: Order, forged: str | None = None) -> Any:
    """The same from a worker without Orkestra, whose workflow has an ID of the tenant's."""
    return await side.raw.execute_workflow(
        Does.run,
        order,
        id=side.own(f"elsewhere-{side.suffix}"),
        task_queue=side.foreign_queue,
        memo=None if forged is None else {"forged": forged},
    )


async def child(side: Side) -> None:
    child_id, seen = await do(side, side.client, Order("child", side.name("child")))
    assert (child_id, seen) == (side.own(side.name("child")), side.tenant)
    description = await side.at_server(side.name("child")).describe()
    assert description.typed_search_attributes[TENANT_ID] == side.tenant
    assert description.raw_info.priority.fairness_key == side.tenant


async def abandoned(side: Side) -> None:
    child_id = await do(side, side.client, Order("abandoned", side.name("child")))
    assert child_id == side.own(side.name("child"))
    assert await side.raw.get_workflow_handle(child_id).result() == side.tenant


async def child_signal(side: Side) -> None:
    child_id = await do(side, side.client, Order("child_signal", side.name("child")))
    handle = side.client.get_workflow_handle(child_id)
    await handle.signal(Mailbox.finish)
    assert await handle.result() == [["signal child", side.tenant]]


async def external_signal(side: Side) -> None:
    box = await _mailbox(side)
    await do(side, side.client, Order("external_signal", side.name("box")))
    assert await _received(box) == [["signal external", side.tenant]]


async def external_cancel(side: Side) -> None:
    name = side.name("lingers")
    target = await side.client.start_workflow(Lingers.run, id=name, task_queue=side.queue)
    await side.client.get_workflow_handle(name).query("__stack_trace")  # it has begun to wait
    await do(side, side.client, Order("external_cancel", name))
    assert await target.result() == side.tenant


def seen(what: str) -> Test:
    async def run(side: Side) -> None:
        assert await do(side, side.client, Order(what)) == side.tenant

    return run


async def _mailbox(side: Side) -> WorkflowHandle[Any, Any]:
    name = side.name("box")
    return await side.client.start_workflow(Mailbox.run, id=name, task_queue=side.queue)


async def _received(box: WorkflowHandle[Any, Any]) -> list[Any]:
    await box.signal(Mailbox.finish)
    return [list(each) for each in await box.result()]


def refused_elsewhere(what: str, kind: str) -> Test:
    """A worker with Orkestra refuses work that a workflow without it starts."""

    async def run(side: Side) -> None:
        order = Order(what, side.own(side.name("child")), side.queue)
        with fails(kind):
            outcome = await do_elsewhere(
                side, order, side.rival if kind == "TenantMismatch" else None
            )
            if what == "abandoned":
                await side.raw.get_workflow_handle(outcome).result()

    return run


def refused_within(what: str, elsewhere: Test | None = None) -> Test:
    """Another tenant's header comes from a user's interceptor, then from code without Orkestra."""

    async def run(side: Side) -> None:
        with fails("TenantMismatch"):
            await do(side, side.client, Order(what, ""), memo={"forged": side.rival})
        if elsewhere is not None:
            await elsewhere(side)

    return run


def dropped_elsewhere(*, forged: bool) -> Test:
    async def run(side: Side) -> None:
        box = await _mailbox(side)
        order = Order("external_signal", side.own(side.name("box")))
        await do_elsewhere(side, order, side.rival if forged else None)
        assert await _received(box) == []

    return run


async def child_of_another(side: Side) -> None:
    victims_name = f"victim-of-{side.tenant}"
    async with side.mailbox(side.rivals_client, victims_name) as victim:
        child_id, seen = await do(side, side.client, Order("child", victim.id))
        assert (child_id, seen) == (side.own(victim.id), side.tenant)


async def abandoned_of_another(side: Side) -> None:
    victims_name = f"victim-of-{side.tenant}"
    async with side.mailbox(side.rivals_client, victims_name) as victim:
        child_id = await do(side, side.client, Order("abandoned", victim.id))
        assert child_id == side.own(victim.id)


def unreachable(what: str) -> Test:
    async def run(side: Side) -> None:
        victims_name = f"victim-of-{side.tenant}"
        async with side.mailbox(side.rivals_client, victims_name) as victim:
            for number, name in enumerate((victim.id, victims_name)):
                with pytest.raises(WorkflowFailureError) as caught:
                    await side.client.execute_workflow(
                        Does.run, Order(what, name), id=f"does-{number}", task_queue=side.queue
                    )
                assert "not found" in str(caught.value.cause)
            assert tuple(await victim.query(Mailbox.count)) == (0, side.rival)

    return run


def renames(what: str) -> Test:
    async def run(side: Side) -> None:
        with fails("TenantMismatch"):
            await do(side, side.client, Order(what, side.rival))
        description = await side.at_server(f"does-{side.suffix}").describe()
        assert description.typed_search_attributes[TENANT_ID] == side.tenant

    return run


def names_itself(what: str) -> Test:
    async def run(side: Side) -> None:
        assert await do(side, side.client, Order(what, side.tenant)) == side.tenant

    return run
