"""Suspending a tenant: what the directory's word alone does not stop from being scheduled.

Once the directory says that a tenant is suspended, clients refuse its starts and workers refuse
what starts all the same, within the time to live of the directory's cache. Its schedules would go
on starting workflows only for workers to refuse them; pausing them spares that.
"""

from collections.abc import AsyncIterator
from typing import Final

from temporalio.client import Client, ScheduleHandle, ScheduleState

from orkestra.errors import TenantMismatchError, UnknownTenantError
from orkestra.temporal.plugin import plugin_of, with_plugin
from orkestra.tenancy import check_tenant_id

SUSPENSION_NOTE: Final = "paused by Orkestra: the tenant is suspended"
"""The note on a schedule that `suspend_schedules()` paused; those are what is resumed."""


async def suspend_schedules(client: Client, tenant: str) -> int:
    """Pause the schedules of a tenant that are not paused already.

    Lists are eventually consistent: a schedule that was made a moment ago may be missed, and is
    paused when this is called again. Its workflows are refused by workers in any case.

    Args:
        client: A client made with `ALL_TENANTS`, or one of the tenant.
        tenant: The tenant.

    Returns:
        How many schedules were paused.

    Raises:
        TenantMismatchError: The client is bound to another tenant.
        DirectoryUnavailableError: The directory gave no answer.
    """
    count = 0
    async for schedule, state in _schedules(client, tenant):
        if not state.paused:
            await schedule.pause(note=SUSPENSION_NOTE)
            count += 1
    return count


async def resume_schedules(client: Client, tenant: str) -> int:
    """Go on with the schedules that `suspend_schedules()` paused, and no others.

    Args:
        client: A client made with `ALL_TENANTS`; one of the tenant may resume only when it has
            learnt that the tenant is active again.
        tenant: The tenant.

    Returns:
        How many schedules go on.

    Raises:
        TenantMismatchError: The client is bound to another tenant.
        TenantSuspendedError: The client is the tenant's, which is still suspended.
        DirectoryUnavailableError: The directory gave no answer.
    """
    count = 0
    async for schedule, state in _schedules(client, tenant):
        if state.paused and state.note == SUSPENSION_NOTE:
            await schedule.unpause(note="resumed by Orkestra: the tenant is active again")
            count += 1
    return count


async def _schedules(
    client: Client, tenant: str
) -> AsyncIterator[tuple[ScheduleHandle, ScheduleState]]:
    check_tenant_id(tenant)
    client = await _at_home(client, tenant)
    attribute = plugin_of(client).search_attribute
    found = await client.list_schedules(f"{attribute} = '{tenant}'")
    for schedule_id in [each.id async for each in found]:
        schedule = client.get_schedule_handle(schedule_id)
        yield schedule, (await schedule.describe()).schedule.state


async def _at_home(client: Client, tenant: str) -> Client:
    """The client in the tenant's namespace; a tenant that was removed is looked for where it is."""
    plugin = plugin_of(client)
    if isinstance(plugin.tenant, str) and plugin.tenant != tenant:
        msg = f"the client is bound to {plugin.tenant!r} and cannot act for {tenant!r}"
        raise TenantMismatchError(msg)
    if plugin.tenant == tenant:  # it was made in the tenant's namespace
        return client
    try:
        placement = await plugin.placements.of(tenant)
    except UnknownTenantError:
        return client
    return with_plugin(client, plugin, namespace=placement.namespace or client.namespace)
