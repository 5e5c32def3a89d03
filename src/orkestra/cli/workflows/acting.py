"""For whom a command acts, and the client it acts with."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from temporalio.client import Client

from orkestra.cli.connecting import log_core_to_python
from orkestra.cli.options import parse_name
from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.errors import TenantRequiredError
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.tenancy import ALL_TENANTS, AllTenants

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

    @classmethod
    def of(
        cls,
        config: OrkestraConfig,
        tenant: str | None,
        *,
        every_tenant: bool = False,
        namespace: str | None = None,
    ) -> "Actor":
        """Who acts by the options of a command.

        Raises:
            TenantRequiredError: Neither option says.
        """
        if config.tenancy.mode == "off":
            return cls(config, None, namespace)
        if tenant is None and not every_tenant:
            msg = "no tenant to act for: give --tenant ID, or set ORKESTRA_TENANT"
            raise TenantRequiredError(msg)
        return cls(config, ALL_TENANTS if every_tenant else tenant, namespace)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """A client of whoever acts, while the connection is open.

        Yields:
            The client. It starts no trace: the workflows' own traces are their workers' to send.

        Raises:
            ConnectionFailedError: The service could not be reached.
            TenantError: The tenant is malformed, unknown or suspended.
        """
        log_core_to_python()
        untraced = self.config.model_copy(update={"langfuse": LangfuseSettings()})
        async with TemporalConnectionManager(untraced) as manager:
            yield await manager.get_client(namespace=self.namespace, tenant=self.tenant)
