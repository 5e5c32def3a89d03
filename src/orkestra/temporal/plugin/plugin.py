"""`OrkestraPlugin`, and how clients hold it."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Final

from temporalio import client, worker
from temporalio.service import ConnectConfig, ServiceClient

from orkestra.config import OrkestraConfig, TenancySettings
from orkestra.directory import Placements, TenantDirectory
from orkestra.errors import ConfigurationError, ForbiddenOperationError, TenantMismatchError
from orkestra.temporal.interceptors.tracing import TracingOptions
from orkestra.temporal.plugin.bound_clients import BoundClients
from orkestra.temporal.plugin.client_side import configure_client, guarded
from orkestra.temporal.plugin.settling import settle_at_exit
from orkestra.temporal.plugin.shared import Shared
from orkestra.temporal.plugin.worker_side import WorkerSide
from orkestra.tenancy import AllTenants, check_tenant_id
from orkestra.tracing import TraceProject

_logger: Final = logging.getLogger("orkestra.temporal.plugin")


class OrkestraPlugin(client.Plugin, worker.Plugin):
    """Tenancy, tracing and the sandbox policy for a client and all its workers.

    Give it to the client; workers take it from there. Bind it to a tenant with `Client.connect()`
    or `create_temporal_client()`: `Client.config()` gives out what the client was made from, which
    for `Client(service_client, plugins=...)` is a service client without a guard.

    Example:
        ```python
        client = await Client.connect("localhost:7233", plugins=[OrkestraPlugin(config)])
        ```
    """

    __module__ = "orkestra.temporal.plugin"  # the server shows it, as part of the plugin's name

    def __init__(
        self,
        config: OrkestraConfig | None = None,
        *,
        tenant: str | AllTenants | None = None,
        directory: TenantDirectory | None = None,
    ) -> None:
        """Configure the plugin; nothing is opened yet.

        Args:
            config: The configuration; None means the defaults.
            tenant: The tenant that the client is bound to; None means that each call acts for
                `current_tenant()`; `ALL_TENANTS` makes an operator's client.
            directory: Knows the tenants; None means those of the configuration, or, where it
                names none, that every well-formed tenant is known.

        Raises:
            InvalidTenantError: The tenant is malformed.
            ConfigurationError: The tenants of the configuration are malformed or contradict.
        """
        settle_at_exit()
        self._shared = Shared.of(config or OrkestraConfig(), directory)
        self._is_derived = False
        self._worker_side = WorkerSide(self._shared, clients=BoundClients(self._bind_client))
        self._bind(tenant)

    def for_tenant(self, tenant: str | AllTenants | None) -> "OrkestraPlugin":
        """A plugin bound to the tenant that shares everything else with this one.

        Args:
            tenant: As in the constructor; of a bound plugin only its own.

        Raises:
            InvalidTenantError: The tenant is malformed.
            TenantMismatchError: This plugin is bound, and not to this tenant.
        """
        if isinstance(tenant, str):
            tenant = check_tenant_id(tenant)
        if isinstance(self._tenant, str) and tenant != self._tenant:
            msg = f"cannot make a plugin of {tenant!r}: this one is bound to {self._tenant!r}"
            raise TenantMismatchError(msg)
        bound = object.__new__(type(self))
        vars(bound).update(vars(self))
        bound._is_derived = True
        bound._bind(tenant)
        return bound

    def limited_to(self, tenants: Collection[str]) -> "OrkestraPlugin":
        """A plugin whose workers serve some tenants only, and shares everything else with this one.

        Args:
            tenants: The tenants to serve. Only for queues that are theirs alone: the work of
                others that comes all the same fails its task, and is tried again elsewhere.

        Raises:
            InvalidTenantError: A tenant is malformed.
        """
        limited = object.__new__(type(self))
        vars(limited).update(vars(self))
        limited._worker_side = WorkerSide(
            self._shared,
            clients=BoundClients(limited._bind_client),
            tenants=frozenset(check_tenant_id(tenant) for tenant in tenants),
        )
        return limited

    @property
    def config(self) -> OrkestraConfig:
        """The configuration, credentials included.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may hold it.
        """
        self._keep("the configuration", "it has credentials")
        return self._shared.config

    @property
    def placements(self) -> Placements:
        """What the directory says of every tenant.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may hold it.
        """
        self._keep("the directory", "it says where others are")
        return self._shared.placements

    @property
    def lost_spans(self) -> Mapping[str, int]:
        """How many spans were lost, by reason; none where tracing is off."""
        lost: Mapping[str, int] = getattr(self._shared.sink, "lost", {})
        return lost

    @property
    def search_attribute(self) -> str:
        """Name of the search attribute that shows the tenant."""
        return self._shared.config.tenancy.search_attribute

    @property
    def tenancy(self) -> TenancySettings:
        """How tenants are carried."""
        return self._shared.config.tenancy

    @property
    def tracing_options(self) -> TracingOptions:
        """Which spans are made of workflows."""
        return self._shared.tracing_options

    @property
    def tenant(self) -> str | AllTenants | None:
        """The tenant that the client is bound to."""
        return self._tenant

    async def project_of(self, tenant: str | None) -> TraceProject | None:
        """Where the spans of a tenant go; None where they are not sent.

        Args:
            tenant: The tenant; None for what belongs to none.

        Raises:
            TenantMismatchError: The plugin is bound to another tenant.
            ConfigurationError: Tracing is off.
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        is_bound = isinstance(self._tenant, str) and self._shared.has_tenancy
        if is_bound and tenant != self._tenant:
            msg = f"the traces of tenant {tenant!r} are not for {self._tenant!r}"
            raise TenantMismatchError(msg)
        if self._shared.sink is None:
            msg = "tracing is off: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
            raise ConfigurationError(msg)
        return await self._shared.sink.project(tenant)

    async def flush(self, timeout: timedelta | None = None) -> bool:
        """Send the spans that wait to be sent.

        Args:
            timeout: How long to wait; None means `langfuse.flush_timeout`.

        Returns:
            Whether all were sent in time; True where tracing is off.
        """
        if self._shared.sink is None:
            return True
        timeout = timeout or self._shared.config.langfuse.flush_timeout
        return await self._shared.sink.flush(timeout)

    async def close(self) -> None:
        """Send the spans that wait, within `langfuse.flush_timeout`, and let go of everything.

        For plugins of one's own; `TemporalConnectionManager.close()` closes its own. It may be
        called again.

        Raises:
            ForbiddenOperationError: The plugin came from `for_tenant()`, and shares with others.
        """
        if self._is_derived:
            msg = "a plugin made by for_tenant() shares with others: close the one it came from"
            raise ForbiddenOperationError(msg)
        if self._shared.sink is not None:
            await self._shared.sink.close(self._shared.config.langfuse.flush_timeout)

    def configure_client(self, config: client.ClientConfig) -> client.ClientConfig:
        """See base class."""
        return configure_client(config, self._shared, self._worker_side, tenant=self._tenant)

    def guard(self, service: ServiceClient, *, namespace: str) -> ServiceClient:
        """The service client with the guard of this plugin's tenant around it.

        Args:
            service: A service client; one that is guarded already is bound anew.
            namespace: The only namespace that its requests may name.

        Returns:
            The guarded service client; where tenancy is off, the one given.

        Raises:
            TenantMismatchError: It is bound to another tenant or namespace.
        """
        return guarded(service, self._shared, tenant=self._tenant, namespace=namespace)

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        """See base class.

        Guarded from here on, so that a client made from this one's configuration without the
        plugin is, too. The namespace becomes known when the client is made.
        """
        return self.guard(await next(config), namespace="")

    def configure_worker(self, config: worker.WorkerConfig) -> worker.WorkerConfig:
        """See base class.

        Raises:
            ForbiddenOperationError: The client is bound; a worker serves every tenant.
            ConfigurationError: An interceptor would see work before it has been checked.
        """
        if self._tenant is not None:
            msg = f"a client of {self._tenant!r} cannot make a worker: use a client without tenant"
            raise ForbiddenOperationError(msg)
        return self._worker_side.configure(config)

    async def run_worker(
        self, worker: worker.Worker, next: Callable[[worker.Worker], Awaitable[None]]
    ) -> None:
        """See base class."""
        if self._shared.sink is not None:
            await self._shared.sink.opened()
        try:
            with self._worker_side.running(worker):
                await next(worker)
        finally:
            await self.flush()

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """See base class."""
        return self._worker_side.configure_replayer(config)

    def run_replayer(
        self,
        replayer: worker.Replayer,
        histories: AsyncIterator[client.WorkflowHistory],
        next: Callable[
            [worker.Replayer, AsyncIterator[client.WorkflowHistory]],
            AbstractAsyncContextManager[AsyncIterator[worker.WorkflowReplayResult]],
        ],
    ) -> AbstractAsyncContextManager[AsyncIterator[worker.WorkflowReplayResult]]:
        """See base class."""
        return next(replayer, histories)

    def _keep(self, what: str, why: str) -> None:
        """Give a tenant's code nothing of what it shares with others."""
        if isinstance(self._tenant, str):
            raise ForbiddenOperationError(f"{what} is not for tenant {self._tenant!r}: {why}")

    def _bind_client(self, owner: client.Client, tenant: str) -> client.Client:
        return with_plugin(owner, self.for_tenant(tenant), namespace=owner.namespace)

    def _bind(self, tenant: str | AllTenants | None) -> None:
        if isinstance(tenant, AllTenants):
            _logger.warning("A client acts for ALL_TENANTS: its calls are not confined to one")
        elif tenant is not None:
            tenant = check_tenant_id(tenant)
        self._tenant = tenant


def plugin_of(owner: client.Client) -> OrkestraPlugin:
    """The client's plugin of ours.

    Raises:
        ConfigurationError: It has none.
    """
    plugins = owner.config()["plugins"]
    found = next((plugin for plugin in plugins if isinstance(plugin, OrkestraPlugin)), None)
    if found is None:
        msg = "the client has no OrkestraPlugin: use create_temporal_client(), or add the plugin"
        raise ConfigurationError(msg)
    return found


def with_plugin(owner: client.Client, plugin: OrkestraPlugin, *, namespace: str) -> client.Client:
    """The same client with another plugin of ours in place of the one it has.

    Guarded beforehand, because `Client.config()` gives out what the client was made from.
    """
    config = owner.config()
    config["service_client"] = plugin.guard(owner.service_client, namespace=namespace)
    config["plugins"] = [plugin if isinstance(p, OrkestraPlugin) else p for p in config["plugins"]]
    config["namespace"] = namespace
    return client.Client(**config)
