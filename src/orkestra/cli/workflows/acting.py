"""For whom a command acts, and the client it acts with."""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from temporalio.client import Client
from temporalio.converter import DataConverter

from orkestra.cli.connecting import connection_manager
from orkestra.cli.options import ConfigFile, Namespace, load_config, parse_name
from orkestra.config import OrkestraConfig
from orkestra.errors import TenantRequiredError
from orkestra.tenancy import ALL_TENANTS, AllTenants

_Code = TypeVar("_Code")

Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="ID", envvar="ORKESTRA_TENANT", help="The tenant to act for."),
]
EveryTenant = Annotated[
    bool, typer.Option("--all-tenants", help="Act as an operator, across tenants.")
]
WorkflowId = Annotated[
    str,
    typer.Argument(parser=parse_name, metavar="WORKFLOW_ID", help="ID of the workflow."),
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", metavar="RUN", help="A run of it.  [default: the latest]"),
]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and where.

    Attributes:
        config: The configuration.
        tenant: The tenant; None where tenancy is off.
        namespace: The namespace; None means the tenant's.
    """

    config: OrkestraConfig
    tenant: str | AllTenants | None
    namespace: str | None

    @asynccontextmanager
    async def client(
        self, *, is_traced: bool = False, data_converter: DataConverter = DataConverter.default
    ) -> AsyncGenerator[Client]:
        """A client of whoever acts, while the connection is open.

        Args:
            is_traced: Whether it traces as the configuration says.
            data_converter: Reads the values.

        Yields:
            The client.

        Raises:
            ConnectionFailedError: The service could not be reached.
            TenantError: The tenant is malformed, unknown or suspended.
        """
        async with connection_manager(
            self.config, is_traced=is_traced, data_converter=data_converter
        ) as manager:
            yield await manager.get_client(namespace=self.namespace, tenant=self.tenant)


def actor_of(
    context: typer.Context,
    *,
    tenant: Tenant = None,
    every_tenant: EveryTenant = False,
    namespace: Namespace = None,
    config: ConfigFile = None,
) -> Actor:
    """Who acts by the options of a command.

    Raises:
        ConfigurationError: The configuration cannot be loaded.
        TenantRequiredError: Tenancy is on, and no option says for whom.
    """
    loaded = load_config(context, config)
    if loaded.tenancy.mode == "off":
        return Actor(loaded, None, namespace)
    if tenant is None and not every_tenant:
        msg = "no tenant to act for: give --tenant ID, or set ORKESTRA_TENANT"
        raise TenantRequiredError(msg)
    return Actor(loaded, ALL_TENANTS if every_tenant else tenant, namespace)


def with_actor(command: Callable[..., _Code]) -> Callable[..., _Code]:
    """Give a command that takes an `actor` the options of `actor_of()` in its place.

    Args:
        command: Its last parameter is `as_json`. In its help, the tenant's options stand where
            `actor` does, and the namespace and the configuration around `--json`.
    """
    asked = inspect.signature(actor_of).parameters
    own = inspect.signature(command).parameters
    names = list(own)
    place = names.index("actor")
    order = ["context", *names[:place], "tenant", "every_tenant", *names[place + 1 : -1]]
    order += ["namespace", names[-1], "config"]

    @functools.wraps(command)
    def acted(**given: Any) -> _Code:
        options = {name: given.pop(name) for name in asked}
        return command(actor=actor_of(**options), **given)

    parameters = [asked.get(name) or own[name] for name in order]
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    acted.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    return acted
