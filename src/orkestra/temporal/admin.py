"""Operations on tenants: suspending their schedules, and finding IDs that they do not own.

Clients refuse the starts of a suspended tenant and workers refuse its workflows, as soon as the
directory's cache expires. But the server would go on starting workflows from the tenant's
schedules, only for workers to refuse them; pausing the schedules prevents that.

An ID alone proves no ownership: with scoped IDs, a workflow that was named `order:17` before there
were tenants becomes reachable for a tenant named `order` (B4).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from temporalio.client import Client, ScheduleHandle, ScheduleState
from temporalio.service import RPCError

from orkestra.errors import (
    ConnectionClosedError,
    DirectoryUnavailableError,
    TenantMismatchError,
    UnknownTenantError,
)
from orkestra.temporal.guard import unguarded_client
from orkestra.temporal.plugin import OrkestraPlugin, plugin_of, with_plugin
from orkestra.tenancy import check_tenant_id, owner_of

SUSPENSION_NOTE: Final = "paused by Orkestra: the tenant is suspended"
"""Note on schedules that `suspend_schedules()` paused. It is stored on the server."""

_logger: Final = logging.getLogger(__name__)

_DEFAULT_LIMIT_ROWS: Final = 10_000
_WARNING_LIMIT_ROWS: Final = 1_000
_WARNING_TIMEOUT: Final = timedelta(seconds=30)
_MAX_SHOWN: Final = 3


async def suspend_schedules(client: Client, tenant: str) -> int:
    """Pause the schedules of a tenant that are not paused already.

    Lists are eventually consistent: a schedule that was created a moment ago may be missed until
    the next call. Workers refuse its workflows in any case.

    Args:
        client: A client made with `ALL_TENANTS`, or one bound to the tenant.
        tenant: The tenant.

    Returns:
        Number of schedules that were paused.

    Raises:
        TenantMismatchError: The client is bound to another tenant.
        DirectoryUnavailableError: The directory did not answer.
    """
    count = 0
    async for schedule, state in _schedules(client, tenant):
        if not state.paused:
            await schedule.pause(note=SUSPENSION_NOTE)
            count += 1
    return count


async def resume_schedules(client: Client, tenant: str) -> int:
    """Unpause the schedules that `suspend_schedules()` paused, and no others.

    Args:
        client: A client made with `ALL_TENANTS`. One bound to the tenant works only after its
            directory has learned that the tenant is active again.
        tenant: The tenant.

    Returns:
        Number of schedules that were unpaused.

    Raises:
        TenantMismatchError: The client is bound to another tenant.
        TenantSuspendedError: The client is bound to the tenant, which is still suspended.
        DirectoryUnavailableError: The directory did not answer.
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
    client = await _in_namespace_of(client, tenant)
    attribute = plugin_of(client).search_attribute
    found = await client.list_schedules(f"{attribute} = '{tenant}'")
    for schedule_id in [each.id async for each in found]:
        schedule = client.get_schedule_handle(schedule_id)
        yield schedule, (await schedule.describe()).schedule.state


async def _in_namespace_of(client: Client, tenant: str) -> Client:
    plugin = plugin_of(client)
    if isinstance(plugin.tenant, str) and plugin.tenant != tenant:
        msg = f"the client is bound to {plugin.tenant!r} and cannot act for {tenant!r}"
        raise TenantMismatchError(msg)
    if plugin.tenant == tenant:  # bound clients are made in their tenant's namespace
        return client
    try:
        placement = await plugin.placements.of(tenant)
    except UnknownTenantError:
        return client  # removed from the directory, but its schedules may still be here
    return with_plugin(client, plugin, namespace=placement.namespace or client.namespace)


@dataclass(frozen=True)
class Unowned:
    """Workflow or schedule whose ID names a tenant that it does not belong to.

    Attributes:
        kind: `workflow` or `schedule`.
        id: ID on the server.
        tenant: The tenant that could reach it.
    """

    kind: Literal["workflow", "schedule"]
    id: str
    tenant: str


async def find_unowned(
    client: Client, *, tenants: Iterable[str] | None = None, limit: int = _DEFAULT_LIMIT_ROWS
) -> list[Unowned]:
    """Find workflows and schedules under a tenant's prefix that lack the tenant's attribute.

    Call it before you switch on scoped IDs in a namespace that is in use. Terminate or rename the
    workflows and schedules that it finds, or give the tenant another ID.

    Args:
        client: A client of the namespace, made with `ALL_TENANTS`.
        tenants: The tenants to check; None checks everything without the attribute, against all
            tenants that the directory knows.
        limit: Maximum number of rows to read, for each tenant and kind.

    Returns:
        What was found, workflows first.
    """
    plugin = plugin_of(client)
    if tenants is None:
        return await _without_attribute(client, plugin, limit)
    attribute = plugin.search_attribute
    found: list[Unowned] = []
    for tenant in tenants:
        check_tenant_id(tenant)
        lacking = f"({attribute} IS NULL OR {attribute} != '{tenant}')"
        found += [row async for row in _rows(client, lacking, tenant, limit)]
    return sorted(found, key=lambda row: row.kind, reverse=True)


async def warn_of_unowned(client: Client) -> None:
    """Log a warning if IDs under a tenant's prefix lack its attribute.

    It reads at most 1,000 workflows and 1,000 schedules without the attribute, for at most 30
    seconds, and gives up silently if it may not list or the server is away. A worker runs it in the
    background when it starts.

    Args:
        client: The worker's client, of all tenants.
    """
    plugin = plugin_of(client)
    tenancy = plugin.config.tenancy
    if tenancy.mode == "off" or tenancy.workflow_ids == "global":
        return
    try:
        async with asyncio.timeout(_WARNING_TIMEOUT.total_seconds()):
            found = await _without_attribute(unguarded_client(client), plugin, _WARNING_LIMIT_ROWS)
    except (RPCError, ConnectionClosedError, DirectoryUnavailableError, TimeoutError) as error:
        _logger.debug("Could not look for IDs under a tenant's prefix: %s", error)
        return
    if found:
        _logger.warning(
            "%d workflow(s) and schedule(s) in namespace %r have a tenant's prefix but not its"
            " attribute %r, so that tenant can reach them: %s. List them with find_unowned(), then"
            " end or rename them",
            len(found),
            client.namespace,
            plugin.search_attribute,
            ", ".join(repr(row.id) for row in found[:_MAX_SHOWN]),
        )


async def _without_attribute(client: Client, plugin: OrkestraPlugin, limit: int) -> list[Unowned]:
    missing = f"{plugin.search_attribute} IS NULL"
    found = [row async for row in _rows(client, missing, None, limit)]
    unknown: set[str] = set()
    for tenant in {row.tenant for row in found}:
        try:
            await plugin.placements.of(tenant)
        except UnknownTenantError:
            unknown.add(tenant)
    return [row for row in found if row.tenant not in unknown]


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
    # `list_schedules` has no limit of its own.
    async for schedule in await client.list_schedules(lacking + prefix("ScheduleId")):
        seen += 1
        if seen > limit:
            return
        owner = owner_of(schedule.id)
        if owner is not None and tenant in (None, owner):
            yield Unowned("schedule", schedule.id, owner)
