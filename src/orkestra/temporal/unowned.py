"""Finding what stands under a tenant's prefix without being the tenant's.

An ID alone proves nothing: whatever was named `order:17` before there were tenants would become
reachable to a tenant called `order`.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from temporalio.client import Client

from orkestra.errors import UnknownTenantError
from orkestra.temporal.plugin import plugin_of
from orkestra.tenancy import check_tenant_id, owner_of

_DEFAULT_LIMIT: Final = 10_000


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
        suspects = [row async for row in _rows(client, f"{attribute} IS NULL", None, limit)]
        known = {row.tenant for row in suspects if await _is_known(client, row.tenant)}
        return [row for row in suspects if row.tenant in known]
    found: list[Unowned] = []
    for tenant in tenants:
        check_tenant_id(tenant)
        lacking = f"({attribute} IS NULL OR {attribute} != '{tenant}')"
        found += [row async for row in _rows(client, lacking, tenant, limit)]
    return sorted(found, key=lambda row: row.kind, reverse=True)


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


async def _is_known(client: Client, tenant: str) -> bool:
    try:
        await plugin_of(client).placements.of(tenant)
    except UnknownTenantError:
        return False
    return True
