"""Suspending a tenant: what the directory's word alone does not stop from being scheduled.

Once the directory says that a tenant is suspended, clients refuse its starts and workers refuse
what starts all the same, within the time to live of the directory's cache. Its schedules would go
on starting workflows only for workers to refuse them; pausing them spares that.

Finding what stands under a tenant's prefix without being the tenant's.

An ID alone proves nothing: whatever was named `order:17` before there were tenants would become
reachable to a tenant called `order`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from temporalio.client import Client, ScheduleHandle, ScheduleState
from temporalio.service import RPCError

from orkestra.directory import Placements
from orkestra.errors import (
    ConnectionClosedError,
    DirectoryUnavailableError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.plugin import plugin_of, with_plugin
from orkestra.tenancy import check_tenant_id, owner_of

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


_logger: Final = logging.getLogger(__name__)

_DEFAULT_LIMIT: Final = 10_000
_LOOKED_AT: Final = 1000
_PATIENCE: Final = 30.0
_SHOWN: Final = 3


@dataclass(frozen=True)
class Unowned:
    """A workflow or schedule whose ID names a tenant that it does not belong to.

    Attributes:
        kind: What it is.
        id: Its ID on the server.
        tenant: The tenant that could reach it.
    """

    kind: Literal["workflow", "schedule"]
    id: str
    tenant: str


async def find_unowned(
    client: Client, *, tenants: Iterable[str] | None = None, limit: int = _DEFAULT_LIMIT
) -> list[Unowned]:
    """Find workflows and schedules under a tenant's prefix that lack the tenant's attribute.

    Run it before scoped IDs are switched on in a namespace that has been in use: terminate or
    rename what it finds, or give the tenant another ID.

    Args:
        client: A client made with `ALL_TENANTS`, of the namespace to look at.
        tenants: The tenants to look for; None looks at whatever has no attribute at all, for
            every tenant that the directory knows.
        limit: At most so many rows are looked at, for each tenant and kind.

    Returns:
        What was found, workflows first.
    """
    attribute = plugin_of(client).search_attribute
    if tenants is None:
        return await _of_all(client, plugin_of(client).placements, attribute, limit)
    found: list[Unowned] = []
    for tenant in tenants:
        check_tenant_id(tenant)
        lacking = f"({attribute} IS NULL OR {attribute} != '{tenant}')"
        found += [row async for row in _rows(client, lacking, tenant, limit)]
    return sorted(found, key=lambda row: row.kind, reverse=True)


async def warn_of_unowned(client: Client) -> None:
    """Log a warning if IDs under a tenant's prefix lack its attribute; for the start of a worker.

    Looks at the first thousand workflows and schedules without the attribute, for half a minute
    at most, and gives up silently where it may not list or the server is away. Run it in the
    background, and cancel it when the worker ends.

    Args:
        client: The worker's client, of all tenants.
    """
    plugin = plugin_of(client)
    tenancy = plugin.config.tenancy
    if tenancy.mode == "off" or tenancy.workflow_ids == "global":
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await _of_all(
                unguarded_client(client), plugin.placements, plugin.search_attribute, _LOOKED_AT
            )
    except (RPCError, ConnectionClosedError, DirectoryUnavailableError, TimeoutError) as error:
        _logger.debug("Not looked for IDs under a tenant's prefix: %s", error)
        return
    if found:
        _logger.warning(
            "%d workflow(s) and schedule(s) of namespace %r stand under a tenant's prefix without"
            " its attribute %r, within that tenant's reach: %s. List them with find_unowned(), then"
            " end or rename them",
            len(found),
            client.namespace,
            plugin.search_attribute,
            ", ".join(repr(row.id) for row in found[:_SHOWN]),
        )


async def _of_all(
    client: Client, placements: Placements, attribute: str, limit: int
) -> list[Unowned]:
    suspects = [row async for row in _rows(client, f"{attribute} IS NULL", None, limit)]
    known = {t for t in {row.tenant for row in suspects} if await _is_known(placements, t)}
    return [row for row in suspects if row.tenant in known]


async def _rows(
    client: Client, lacking: str, tenant: str | None, limit: int
) -> AsyncIterator[Unowned]:
    def prefix(field: str) -> str:
        return "" if tenant is None else f" AND {field} STARTS_WITH '{tenant}:'"

    async for workflow in client.list_workflows(lacking + prefix("WorkflowId"), limit=limit):
        owner = owner_of(workflow.id)
        if owner is not None and tenant in (None, owner):
            yield Unowned("workflow", workflow.id, owner)
    seen = 0
    async for schedule in await client.list_schedules(lacking + prefix("ScheduleId")):
        seen += 1
        if seen > limit:
            return
        owner = owner_of(schedule.id)
        if owner is not None and tenant in (None, owner):
            yield Unowned("schedule", schedule.id, owner)


async def _is_known(placements: Placements, tenant: str) -> bool:
    try:
        await placements.of(tenant)
    except UnknownTenantError:
        return False
    return True
