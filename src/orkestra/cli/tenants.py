"""`orkestra tenants`: who is served and where, and how much each has going on.

`orkestra search-attributes`: prepare a namespace for tenants.
"""

import asyncio
from datetime import timedelta
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from temporalio.client import Client

from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    connection_manager,
    duration_option,
    help_of,
    load_config,
    operator_client,
    parse_name,
    plain,
    plain_app,
    tell,
    write_json,
    write_line,
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
    """See which tenants the configuration knows, and stop or resume one.

    Example:
      orkestra tenants list --counts
    """


def list_tenants(
    context: typer.Context,
    *,
    counts: Annotated[
        bool, typer.Option("--counts", help="Also count each one's workflows by status.")
    ] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """List the tenants of the configuration with their placement.

    Examples:
      orkestra tenants list
      orkestra tenants list --counts --json
    """
    settings = load_config(context, config)
    told = asyncio.run(_all(settings, counts=counts))
    if as_json:
        write_json({"tenants": told})
    elif told:
        _draw(told)
    else:
        write_line("the configuration names no tenants: every well-formed ID is served")
    return 0


def show(
    context: typer.Context,
    tenant: TenantId,
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Show a tenant: its placement, and its workflows by status.

    Examples:
      orkestra tenants show acme
    """
    settings = load_config(context, config)
    told = asyncio.run(_one(settings, tenant))
    if as_json:
        write_json(told)
        return 0
    for name, value in told.items():
        write_line(f"{name.replace('_', ' '):<16} {_shown(value)}")
    return 0


def suspend(
    context: typer.Context,
    tenant: TenantId,
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Pause the schedules of a tenant that is suspended; what runs goes on.

    That a tenant is suspended stands in the directory: while it does not, this says so.

    Examples:
      orkestra tenants suspend acme
    """
    _switch(load_config(context, config), tenant, as_json=as_json, on=False)
    return 0


def resume(
    context: typer.Context,
    tenant: TenantId,
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Go on with the schedules that `suspend` paused, and no others.

    Examples:
      orkestra tenants resume acme
    """
    _switch(load_config(context, config), tenant, as_json=as_json, on=True)
    return 0


app = plain_app()
app.callback(help=help_of(tenants))(tenants)
app.command("list", help=help_of(list_tenants))(list_tenants)
app.command("show", help=help_of(show))(show)
app.command("suspend", help=help_of(suspend))(suspend)
app.command("resume", help=help_of(resume))(resume)


def _switch(settings: OrkestraConfig, tenant: str, *, as_json: bool, on: bool) -> None:
    wanted, done, otherwise = (
        ("active", "go on", "its workflows are refused")
        if on
        else ("suspended", "paused", "it goes on starting workflows")
    )
    schedules, status = asyncio.run(_switched(settings, tenant, on=on))
    line = f"{tenant}: {schedules} schedules {done}"
    if status != wanted:
        line += (
            f', but the directory has it as {status}: set tenants.{tenant}.status = "{wanted}",'
            f" or {otherwise}"
        )
    tell(as_json, {"tenant": tenant, "schedules": schedules, "status": status}, line)


async def _record(settings: OrkestraConfig, tenant: str) -> TenantRecord:
    if not settings.tenants:
        return TenantRecord(tenant)
    found = await StaticTenantDirectory.from_settings(settings.tenants).find(tenant)
    if found is None:
        known = ", ".join(sorted(settings.tenants))
        msg = f"tenant {tenant!r} is not in the configuration, which has {known}"
        raise UnknownTenantError(msg)
    return found


async def _all(settings: OrkestraConfig, *, counts: bool) -> list[dict[str, Any]]:
    records = [await _record(settings, tenant) for tenant in sorted(settings.tenants)]
    if not counts or not records:
        return [_told(settings, record) for record in records]
    async with connection_manager(settings) as manager:
        return [
            _told(settings, record) | {"workflows": await _counts(manager, settings, record)}
            for record in records
        ]


async def _one(settings: OrkestraConfig, tenant: str) -> dict[str, Any]:
    record = await _record(settings, tenant)
    async with connection_manager(settings) as manager:
        return _told(settings, record) | {"workflows": await _counts(manager, settings, record)}


async def _switched(settings: OrkestraConfig, tenant: str, *, on: bool) -> tuple[int, str]:
    record = await _record(settings, tenant)
    async with connection_manager(settings) as manager:
        client = await _operator(manager, settings, record)
        count = await (resume_schedules if on else suspend_schedules)(client, tenant)
    return count, record.status.value


async def _operator(
    manager: TemporalConnectionManager, settings: OrkestraConfig, record: TenantRecord
) -> Client:
    """A client in the namespace of the tenant; a tenant's own would be refused if suspended."""
    namespace = record.namespace or settings.temporal.namespace
    return await manager.get_client(namespace=namespace, tenant=ALL_TENANTS)


async def _counts(
    manager: TemporalConnectionManager, settings: OrkestraConfig, record: TenantRecord
) -> dict[str, int]:
    client = await _operator(manager, settings, record)
    attribute = settings.tenancy.search_attribute
    query = f"{attribute} = '{record.tenant}' GROUP BY ExecutionStatus"
    found = await client.count_workflows(query)
    return {str(group.group_values[0]).lower(): group.count for group in found.groups}


def _told(settings: OrkestraConfig, record: TenantRecord) -> dict[str, Any]:
    return {
        "tenant": record.tenant,
        "status": record.status.value,
        "namespace": record.namespace or settings.temporal.namespace,
        "task_queues": dict(record.task_queues),
        "fairness_weight": record.fairness_weight or 1,
    }


def _draw(told: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in told[0]:
        table.add_column(name.replace("_", " "))
    for each in told:
        style = "" if each["status"] == "active" else "yellow"
        table.add_row(*(Text(plain(_shown(value)), style) for value in each.values()))
    Console(highlight=False).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{name}: {held}" for name, held in pairs.items()) or "-"
    return str(value)


_TIMEOUT: Final = timedelta(seconds=30)


def search_attributes() -> None:
    """Prepare a namespace for tenants.

    Example:
      orkestra search-attributes ensure --namespace staging
    """


def ensure(
    context: typer.Context,
    *,
    name: Annotated[
        str | None,
        typer.Option(
            parser=parse_name, metavar="NAME", help="Its name.  [default: tenancy.search_attribute]"
        ),
    ] = None,
    namespace: Namespace = None,
    timeout: Annotated[
        timedelta, duration_option("30s", help="How long all of it may take.")
    ] = _TIMEOUT,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Register the search attribute that shows the tenant, and wait until it can be used.

    Does nothing if it is there. Needs the operator's rights; where they are refused, as on
    Temporal Cloud, it says which command to run instead.

    Examples:
      orkestra search-attributes ensure
      orkestra search-attributes ensure --namespace staging --timeout 1m
    """
    settings = load_config(context, config)
    name = tenant_search_attribute(name or settings.tenancy.search_attribute).name
    namespace = settings.temporal.namespace if namespace is None else namespace
    asyncio.run(_ensure(settings, name, namespace, timeout))
    if as_json:
        write_json({"namespace": namespace, "name": name, "type": "Keyword"})
    else:
        write_line(f"search attribute {name!r} can be used in namespace {namespace!r}")


async def _ensure(settings: OrkestraConfig, name: str, namespace: str, timeout: timedelta) -> None:
    async with operator_client(
        settings.temporal, namespace=namespace, deadline=timeout, verify_namespace=True
    ) as client:
        await ensure_search_attributes(client, name=name, timeout=timeout)


search_attributes_app: Final = plain_app()
search_attributes_app.callback(help=help_of(search_attributes))(search_attributes)
search_attributes_app.command(help=help_of(ensure))(ensure)
