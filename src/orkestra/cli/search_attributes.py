"""`orkestra search-attributes`: prepare a namespace for tenants."""

import asyncio
from datetime import timedelta
from typing import Annotated, Final

import typer

from orkestra.cli.connecting import operator_client
from orkestra.cli.options import (
    AsJson,
    ConfigFile,
    Namespace,
    duration_option,
    help_of,
    load_config,
    parse_name,
    plain_app,
)
from orkestra.cli.output import write_json, write_line
from orkestra.config import OrkestraConfig
from orkestra.temporal.search_attributes import ensure_search_attributes, tenant_search_attribute

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
