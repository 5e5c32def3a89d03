"""Commands on tenants: `orkestra tenants` and `orkestra search-attributes`."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console
from rich.text import Text
from temporalio.client import Client

from orkestra.cli.options import (
    AsJson,
    Namespace,
    command_group,
    connection_manager,
    duration_option,
    load_config,
    name_option,
    operator_client,
    plain,
    plain_table,
    takes,
    write_json,
    write_line,
    write_result,
)
from orkestra.config import OrkestraConfig
from orkestra.directory import StaticTenantDirectory, TenantRecord
from orkestra.errors import UnknownTenantError
from orkestra.temporal.admin import resume_schedules, suspend_schedules
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.search_attributes import ensure_search_attributes, tenant_search_attribute
from orkestra.tenancy import ALL_TENANTS, check_tenant_id

TenantId = Annotated[
    str, typer.Argument(parser=check_tenant_id, metavar="TENANT", help="ID of the tenant.")
]


def tenants() -> None:
    """List the tenants of the configuration, and pause or unpause the schedules of one.

    Example:
      orkestra tenants list --counts
    """


@takes("settings", load_config)
def list_tenants(
    *,
    counts: Annotated[
        bool, typer.Option("--counts", help="Also count each tenant's workflows by status.")
    ] = False,
    settings: OrkestraConfig,
    as_json: AsJson = False,
) -> int:
    """List the tenants of the configuration with their placement.

    Examples:
      orkestra tenants list
      orkestra tenants list --counts --json
    """
    listed = asyncio.run(_describe_all(settings, counts=counts))
    if as_json:
        write_json({"tenants": listed})
    elif listed:
        _draw(listed)
    else:
        write_line("no tenants configured: every well-formed tenant ID is accepted")
    return 0


@takes("settings", load_config)
def show(tenant: TenantId, *, settings: OrkestraConfig, as_json: AsJson = False) -> int:
    """Show the placement of a tenant, and its workflows by status.

    Examples:
      orkestra tenants show acme
    """
    described = asyncio.run(_describe_one(settings, tenant))
    if as_json:
        write_json(described)
        return 0
    for name, value in described.items():
        write_line(f"{name.replace('_', ' '):<16} {_shown(value)}")
    return 0


@takes("settings", load_config)
def suspend(tenant: TenantId, *, settings: OrkestraConfig, as_json: AsJson = False) -> int:
    """Pause the schedules of a suspended tenant. Running workflows continue.

    The tenant is suspended by its status in the configuration; the command warns if it is not.

    Examples:
      orkestra tenants suspend acme
    """
    return _set_paused(settings, tenant, paused=True, as_json=as_json)


@takes("settings", load_config)
def resume(tenant: TenantId, *, settings: OrkestraConfig, as_json: AsJson = False) -> int:
    """Unpause the schedules that `suspend` paused, and no others.

    Examples:
      orkestra tenants resume acme
    """
    return _set_paused(settings, tenant, paused=False, as_json=as_json)


app = command_group(tenants, list=list_tenants, show=show, suspend=suspend, resume=resume)


def _set_paused(settings: OrkestraConfig, tenant: str, *, paused: bool, as_json: bool) -> int:
    schedules, status = asyncio.run(_pause_schedules(settings, tenant, paused=paused))
    line = f"{tenant}: {schedules} schedules {'paused' if paused else 'unpaused'}"
    expected = "suspended" if paused else "active"
    # B17: paused schedules alone do not stop clients; only the status in the directory does.
    if status != expected:
        effect = "it can still start workflows" if paused else "its new workflows are refused"
        line += (
            f'; its status is {status!r}: set tenants.{tenant}.status = "{expected}", or {effect}'
        )
    result = {"tenant": tenant, "schedules": schedules, "status": status}
    write_result(result, line, as_json=as_json)
    return 0


async def _record(settings: OrkestraConfig, tenant: str) -> TenantRecord:
    # As at run time: without a directory every well-formed ID is a tenant.
    if not settings.tenants:
        return TenantRecord(tenant)
    found = await StaticTenantDirectory.from_settings(settings.tenants).find(tenant)
    if found is None:
        known = ", ".join(sorted(settings.tenants))
        msg = f"unknown tenant {tenant!r}: the configuration has {known}"
        raise UnknownTenantError(msg)
    return found


async def _describe_all(settings: OrkestraConfig, *, counts: bool) -> list[dict[str, Any]]:
    records = [await _record(settings, tenant) for tenant in sorted(settings.tenants)]
    # Without counts the command needs no server.
    if not counts or not records:
        return [_describe(settings, record) for record in records]
    async with connection_manager(settings) as manager:
        return [
            _describe(settings, record) | {"workflows": await _counts(manager, settings, record)}
            for record in records
        ]


async def _describe_one(settings: OrkestraConfig, tenant: str) -> dict[str, Any]:
    record = await _record(settings, tenant)
    async with connection_manager(settings) as manager:
        return _describe(settings, record) | {"workflows": await _counts(manager, settings, record)}


async def _pause_schedules(
    settings: OrkestraConfig, tenant: str, *, paused: bool
) -> tuple[int, str]:
    record = await _record(settings, tenant)
    async with connection_manager(settings) as manager:
        client = await _operator(manager, settings, record)
        count = await (suspend_schedules if paused else resume_schedules)(client, tenant)
    return count, record.status.value


async def _operator(
    manager: TemporalConnectionManager, settings: OrkestraConfig, record: TenantRecord
) -> Client:
    """Connect an operator to the tenant's namespace: a suspended tenant's client is refused."""
    namespace = record.namespace or settings.temporal.namespace
    return await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)


async def _counts(
    manager: TemporalConnectionManager, settings: OrkestraConfig, record: TenantRecord
) -> dict[str, int]:
    client = await _operator(manager, settings, record)
    attribute = settings.tenancy.search_attribute
    # The ID's alphabet has no quotes. GROUP BY is possible for ExecutionStatus only (T82).
    query = f"{attribute} = '{record.tenant}' GROUP BY ExecutionStatus"
    found = await client.count_workflows(query)
    return {str(group.group_values[0]).lower(): group.count for group in found.groups}


def _describe(settings: OrkestraConfig, record: TenantRecord) -> dict[str, Any]:
    return {
        "tenant": record.tenant,
        "status": record.status.value,
        "namespace": record.namespace or settings.temporal.namespace,
        "task_queues": dict(record.task_queues),
        "fairness_weight": record.fairness_weight or 1,
    }


def _draw(listed: list[dict[str, Any]]) -> None:
    table = plain_table(*(name.replace("_", " ") for name in listed[0]))
    for each in listed:
        style = "" if each["status"] == "active" else "yellow"
        table.add_row(*(Text(plain(_shown(value)), style) for value in each.values()))
    Console(highlight=False).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{name}: {each}" for name, each in pairs.items()) or "-"
    return str(value)


_TIMEOUT: Final = timedelta(seconds=30)


def search_attributes() -> None:
    """Register the search attribute that carries the tenant.

    Example:
      orkestra search-attributes ensure --namespace staging
    """


@takes("settings", load_config)
def ensure(
    *,
    name: Annotated[
        str | None,
        name_option("Name of the search attribute.  [default: tenancy.search_attribute]"),
    ] = None,
    namespace: Namespace = None,
    timeout: Annotated[
        timedelta, duration_option("Time limit of the command.  [default: 30s]")
    ] = _TIMEOUT,
    settings: OrkestraConfig,
    as_json: AsJson = False,
) -> None:
    """Register the tenant search attribute.

    Waits until the namespace can use it; does nothing if it exists. The command needs operator
    permissions; if they are refused, as on Temporal Cloud, the error names the command to run
    instead.

    Examples:
      orkestra search-attributes ensure
      orkestra search-attributes ensure --namespace staging --timeout 1m
    """
    name = tenant_search_attribute(name or settings.tenancy.search_attribute).name
    namespace = settings.temporal.namespace if namespace is None else namespace
    asyncio.run(_ensure(settings, name, namespace, timeout))
    line = f"search attribute {name!r} is ready in namespace {namespace!r}"
    write_result({"namespace": namespace, "name": name, "type": "Keyword"}, line, as_json=as_json)


async def _ensure(settings: OrkestraConfig, name: str, namespace: str, timeout: timedelta) -> None:
    async with operator_client(
        settings.temporal, namespace=namespace, deadline=timeout, verify_namespace=True
    ) as client:
        await ensure_search_attributes(client, name=name, timeout=timeout)


search_attributes_app: Final = command_group(search_attributes, ensure=ensure)
