"""Tenants and IDs that look like others': reserved prefixes, case, invisible characters."""

import logging

import pytest
from temporalio.client import Schedule, ScheduleActionStartWorkflow, ScheduleSpec
from temporalio.service import RPCError

from orkestra import ALL_TENANTS, InvalidTenantError, OrkestraPlugin, tenant_scope
from orkestra.errors import InvalidIdError
from orkestra.temporal.admin import warn_of_unowned
from tests.support.guard_attack import refused
from tests.support.guarded_clients import whose
from tests.support.tenants import PlacedTenants
from tests.support.waiting import becomes
from tests.workflows.everything import Mailbox

RESERVED = ("temporal-sys-scheduler", "temporal", "temporal.sys", "temporalio")
LOOKALIKES = (
    "Acme",
    "ACME",
    "\u0430cme",
    "acme\n",
    "acme ",
    "ac\u00adme",
    "acme:beta",
    "\uff41cme",
)
UNSEEN = ("a\nb", "a\x1b[2Jb", "a\x00b", "a\u202eb", "a\u200bb", "a\ud800b", "a\x7fb")


@pytest.mark.parametrize("tenant", RESERVED)
async def test_b04_reserved_tenant_ids_are_refused(attack, tenant):
    """`temporal-sys-scheduler:acme:sched` is the workflow behind a schedule of acme's."""
    with pytest.raises(InvalidTenantError):
        attack.desk.client(tenant)
    with pytest.raises(InvalidTenantError), tenant_scope(tenant):
        pass


async def test_b04_the_workflow_of_another_tenants_schedule_cannot_be_reached(attack):
    plan = Schedule(
        ScheduleActionStartWorkflow(Mailbox.run, id="w", task_queue="nobody-polls"), ScheduleSpec()
    )
    schedule = await attack.beta.create_schedule("nightly", plan)
    behind = f"temporal-sys-scheduler:{schedule.id}"
    await attack.desk.raw.get_workflow_handle(behind).describe()
    for call in ("describe", "terminate", "cancel"):
        await refused(getattr(attack.bare.get_workflow_handle(behind), call)())
    await schedule.delete()


async def test_b04_a_starting_worker_warns_of_unowned_ids_under_a_tenants_prefix(
    dev_server, raw_client, fresh, caplog
):
    placed = PlacedTenants(dev_server.address, raw_client, fresh)
    old = await raw_client.start_workflow(
        Mailbox.run, id=f"{placed.shared}:17", task_queue="nobody-polls"
    )

    async def is_told() -> bool:
        await warn_of_unowned(placed.client(None))
        return old.id in caplog.text

    with caplog.at_level(logging.WARNING, "orkestra.temporal.admin"):
        await becomes(is_told, expected=True)
    await old.terminate()
    assert "ALL_TENANTS" not in caplog.text


@pytest.mark.parametrize("tenant", LOOKALIKES)
def test_b14_lookalike_tenant_ids_are_refused(tenant):
    with pytest.raises(InvalidTenantError):
        OrkestraPlugin(tenant=tenant)


async def test_b14_lookalike_ids_reach_the_callers_own_work_or_none(attack):
    """Prefixes of prefixes, other cases, separators: each is only ever below the own prefix."""
    acme, beta = attack.desk.acme, attack.desk.beta
    name = attack.target.id.partition(":")[2]
    for disguised in (
        attack.target.id,
        attack.target.id.upper(),
        f"{acme}:{attack.target.id}",
        f":{attack.target.id}",
        f" {attack.target.id}",
        f"../{attack.target.id}",
        f"{beta}\uff1a{name}",
        f"{beta}%3A{name}",
    ):
        handle = await attack.acme.start_workflow(
            Mailbox.run, id=disguised, task_queue=attack.desk.queue
        )
        assert handle.id.startswith(f"{acme}:")
        await handle.terminate()
        if not disguised.startswith(f"{acme}:"):
            await refused(attack.bare.get_workflow_handle(disguised).describe())


async def test_b14_tenants_with_a_common_prefix_are_separate(attack):
    longer = attack.desk.client(f"{attack.desk.acme}.b")
    own = await attack.desk.mailbox(f"{attack.desk.acme}.b", "own")
    for name in (own.id, own.id.removeprefix(attack.desk.acme), ".b:" + own.id.partition(":")[2]):
        with pytest.raises(RPCError, match="not found"):
            await attack.acme.get_workflow_handle(name).describe()
    assert (await longer.get_workflow_handle(own.id).describe()).id == own.id
    await own.terminate()


@pytest.mark.parametrize("name", UNSEEN)
async def test_b24_ids_with_control_characters_are_refused(attack, name):
    start = {"task_queue": attack.desk.queue}
    with pytest.raises(InvalidIdError):
        await attack.acme.start_workflow(Mailbox.run, id=name, **start)
    with pytest.raises(InvalidIdError):
        await attack.acme.start_activity(whose, id=name, schedule_to_close_timeout=None, **start)
    with pytest.raises(ValueError, match="character"):  # a surrogate is refused by protobuf itself
        await attack.acme.count_workflows(f"WorkflowId = '{name}'")


async def test_b24_ids_without_room_for_the_prefix_are_refused(attack):
    with pytest.raises(InvalidIdError, match="900"):
        await attack.acme.start_workflow(
            Mailbox.run, id="\u00e9" * 451, task_queue=attack.desk.queue
        )


async def test_b14_only_the_operator_sees_ids_of_both_cases(attack):
    operator = attack.desk.client(ALL_TENANTS)
    other = await attack.desk.raw.start_workflow(
        Mailbox.run,
        id=f"{attack.desk.acme.upper()}:x",
        task_queue="nobody-polls",
    )

    async def listed() -> bool:
        return (await operator.count_workflows(f"WorkflowId = '{other.id}'")).count == 1

    await becomes(listed, expected=True)
    assert [row.id async for row in attack.acme.list_workflows()] == []
    await other.terminate()
