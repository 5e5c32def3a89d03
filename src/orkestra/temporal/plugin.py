"""`OrkestraPlugin`, and how clients hold it.

What the plugin puts into a client: the guard around its calls, and interceptors.

What the plugin puts into workers and replayers, and what it does while a worker runs.

What a plugin shares with all that are made from it, and the sink that their spans go to.

The worker's client as the tasks of each tenant get it.

Which interceptors are Orkestra's own, in a configuration that was cloned, too.

What became of the spans of plugins.

A moment for the SDK's threads before the interpreter goes away under them.
"""

import atexit
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Final, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from temporalio import client, worker
from temporalio.client import Client
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.config import LangfuseProject, OrkestraConfig, TenancySettings
from orkestra.directory import Placements, StaticTenantDirectory, TenantDirectory, TenantLabels
from orkestra.errors import ConfigurationError, ForbiddenOperationError, TenantMismatchError
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.guard import GuardedServiceClient, OwnerMemory, Owners, unguarded_service
from orkestra.temporal.guard.rules import DirectoryGrants
from orkestra.temporal.run_hooks import HookFactory, with_run_hooks
from orkestra.temporal.sandbox import sandbox_runner
from orkestra.temporal.tenant import TenantInterceptor, TenantWorkerInterceptor
from orkestra.temporal.threads import ActivityThreads
from orkestra.temporal.tracing import TracingClientInterceptor, TracingInterceptor, TracingOptions
from orkestra.tenancy import AllTenants, check_tenant_id
from orkestra.tracing import SpanCounts, TraceProject, TraceSink

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Shared:
    """What plugins of one origin share, whatever they are bound or limited to.

    Attributes:
        config: The configuration, credentials included.
        placements: What the directory says of every tenant.
        labels: What is counted under.
        sink: Where spans go; None where tracing is off.
        owners: What has been found out of whose executions are.
    """

    config: OrkestraConfig
    placements: Placements
    labels: TenantLabels
    sink: TraceSink | None
    owners: OwnerMemory = field(default_factory=OwnerMemory)

    @classmethod
    def of(cls, config: OrkestraConfig, directory: TenantDirectory | None) -> Self:
        """Prepare it; nothing is opened yet.

        Args:
            config: The configuration.
            directory: Knows the tenants; None means those of the configuration.

        Raises:
            ConfigurationError: The tenants of the configuration are malformed or contradict.
        """
        if directory is None and config.tenants:
            directory = StaticTenantDirectory.from_settings(config.tenants)
        placements = Placements(directory, shared_namespace=config.temporal.namespace)
        is_labelled = config.tenancy.metrics_tenant_label
        return cls(
            config=config,
            placements=placements,
            labels=TenantLabels(placements if is_labelled else None),
            sink=_sink(config, placements),
        )

    @property
    def has_tenancy(self) -> bool:
        """Whether calls carry a tenant at all."""
        return self.config.tenancy.mode != "off"

    @property
    def tracing_options(self) -> TracingOptions:
        """Which spans are made of workflows."""
        return TracingOptions(
            ui_url=self.config.temporal.ui_url,
            queries=self.config.langfuse.queries,
            timer_threshold=self.config.langfuse.timer_threshold or None,
        )


def _sink(config: OrkestraConfig, placements: Placements) -> TraceSink | None:
    settings = config.langfuse
    has_projects = any(tenant.langfuse is not None for tenant in config.tenants.values())
    if not (settings.is_on or (has_projects and settings.enabled is not False)):
        return None
    from orkestra.langfuse import LangfuseProjects  # noqa: PLC0415 - off means not imported

    def project_of(tenant: str) -> LangfuseProject | None:
        placement = placements.last_known(tenant)
        if placement is None:
            raise LookupError(tenant)
        return placement.record.langfuse

    return LangfuseProjects(settings, project_of, placements.of)


_REMEMBERED_TENANTS: Final = 256


class BoundClients:
    """Makes a client for each tenant whose tasks ask for it, and remembers some.

    Args:
        bind: Makes the client of a tenant out of the worker's.
    """

    def __init__(self, bind: Callable[[Client, str], Client]) -> None:
        self._bind = bind
        self._bound = WeakKeyDictionary[Client, dict[str, Client]]()

    def of(self, owner: Client, tenant: str) -> Client:
        """The worker's client, bound to the tenant."""
        bound = self._bound.setdefault(owner, {})
        if tenant not in bound:
            if len(bound) >= _REMEMBERED_TENANTS:
                bound.clear()
            bound[tenant] = self._bind(owner, tenant)
        return bound[tenant]


_WorkerInterceptor: TypeAlias = TenantWorkerInterceptor | TracingInterceptor


class WorkerSide:
    """The worker's interceptors, and the hooks of its runs.

    Attributes:
        tenancy: Checks what arrives; None where tenancy is off.
        tracing: Makes spans of it; None where tracing is off.

    Args:
        shared: What the plugin shares.
        clients: The clients that tasks may ask for.
        tenants: The tenants to serve, where no others may come; None means all.
    """

    def __init__(
        self, shared: Shared, *, clients: BoundClients, tenants: Collection[str] | None = None
    ) -> None:
        self._shared = shared
        self.tenancy: TenantWorkerInterceptor | None = None
        self.tracing: TracingInterceptor | None = None
        if shared.has_tenancy:
            self.tenancy = TenantWorkerInterceptor(
                shared.config.tenancy,
                placements=shared.placements,
                tenants=tenants,
                bind=clients.of,
                labels=shared.labels,
            )
        if shared.sink is not None:
            self.tracing = TracingInterceptor(
                shared.sink,
                identity=shared.config.temporal.identity,
                options=shared.tracing_options,
            )

    @property
    def interceptors(self) -> list[_WorkerInterceptor]:
        """Tenant first: it decides whether tracing may look at the arguments at all."""
        return [each for each in (self.tenancy, self.tracing) if each is not None]

    def configure(self, config: worker.WorkerConfig) -> worker.WorkerConfig:
        """Put everything into the configuration of a worker.

        Raises:
            ConfigurationError: An interceptor would see work before it has been checked.
        """
        self._add_interceptors(config)
        owners = self._owners_for(config["client"]) if "client" in config else None
        hooks: list[HookFactory] = []
        if self.tracing is not None:
            hooks.append(self.tracing.run_hook)
        if self.tenancy is not None:
            hooks.append(self.tenancy.hook_factory(owners))
        self._wrap_runners(config, hooks)
        return config

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """Put in what a replay takes: spans are not sent, and nobody is asked."""
        given = config["interceptors"] if "interceptors" in config else ()
        ours: list[worker.Interceptor] = []
        hooks: list[HookFactory] = []
        if self.tenancy is not None:
            ours.append(self.tenancy)
            hooks.append(self.tenancy.replay_hook)
        if self.tracing is not None:
            ours.append(self.tracing.for_replayer())
        config["interceptors"] = [*ours, *without_ours(given)]
        self._wrap_runners(config, hooks)
        return config

    @contextmanager
    def running(self, ran: worker.Worker) -> Generator[None]:
        """Make a worker known to its connection, and let go of what it leaves behind."""
        service = unguarded_service(ran.client)
        try:
            if isinstance(service, ManagedServiceClient):
                with service.connection.working(f"task queue {ran.task_queue!r}", ran):
                    yield
            else:
                yield
        finally:
            if self.tracing is not None:
                self.tracing.settle(ran.task_queue)
            config = ran.config()
            threads = config["activity_executor"] if "activity_executor" in config else None
            if isinstance(threads, ActivityThreads):
                threads.end()

    def _owners_for(self, owner: client.Client) -> Owners:
        return Owners(
            unguarded_service(owner).workflow_service,
            namespace=owner.namespace,
            header=self._shared.config.tenancy.header,
            memory=self._shared.owners,
        )

    def _wrap_runners(
        self,
        config: worker.WorkerConfig | worker.ReplayerConfig,
        hooks: Sequence[HookFactory],
    ) -> None:
        if "workflow_runner" in config:
            runner = config["workflow_runner"]
            if isinstance(runner, SandboxedWorkflowRunner):
                workflows = config["workflows"] if "workflows" in config else ()
                runner = sandbox_runner(runner, workflows, self._shared.config.worker.sandbox)
            config["workflow_runner"] = with_run_hooks(runner, hooks)
        if "unsandboxed_workflow_runner" in config:
            runner = config["unsandboxed_workflow_runner"]
            config["unsandboxed_workflow_runner"] = with_run_hooks(runner, hooks)

    def _add_interceptors(self, config: worker.WorkerConfig) -> None:
        """Add ours where the client has not brought them, and see that they come first."""
        worker_client = config["client"] if "client" in config else None
        if worker_client is None:
            return
        of_client = worker_client.config(active_config=True)["interceptors"]
        of_worker = config["interceptors"] if "interceptors" in config else ()
        present = [i for i in (*of_client, *of_worker) if isinstance(i, worker.Interceptor)]
        if not any(is_ours(interceptor) for interceptor in present):
            config["interceptors"] = [*self.interceptors, *of_worker]
            present = [i for i in of_client if isinstance(i, worker.Interceptor)]
        if self._shared.has_tenancy and present and not is_ours(present[0]):
            msg = (
                f"interceptor {type(present[0]).__name__} would see work before its tenant is"
                " checked: give OrkestraPlugin as the last plugin of the client"
            )
            raise ConfigurationError(msg)


def configure_client(
    config: client.ClientConfig,
    shared: Shared,
    worker_side: WorkerSide,
    *,
    tenant: str | AllTenants | None,
) -> client.ClientConfig:
    """Put everything into the configuration of a client.

    Args:
        config: The configuration, which is changed.
        shared: What the plugin shares.
        worker_side: What workers of the client take from it.
        tenant: The tenant that the client is bound to.

    Raises:
        TenantMismatchError: Its service client is bound to another tenant or namespace.
    """
    namespace = config["namespace"]
    service = guarded(config["service_client"], shared, tenant=tenant, namespace=namespace)
    nearest: list[client.Interceptor] = []
    if shared.has_tenancy:
        nearest.append(
            TenantInterceptor(
                shared.config.tenancy,
                tenant=tenant,
                placements=shared.placements,
                namespace=namespace,
                labels=shared.labels,
                on_refusal=service.count_refused
                if isinstance(service, GuardedServiceClient)
                else None,
            )
        )
    theirs = without_ours(config.get("interceptors", ()))
    config["interceptors"] = [*_farthest(worker_side, tenant), *theirs, *nearest]
    config["service_client"] = service
    return config


def guarded(
    service: ServiceClient, shared: Shared, *, tenant: str | AllTenants | None, namespace: str
) -> ServiceClient:
    """The service client with the guard of a tenant around it.

    Args:
        service: A service client; one that is guarded already is bound anew.
        shared: What the plugin shares.
        tenant: The tenant that the client is bound to.
        namespace: The only namespace that its requests may name.

    Returns:
        The guarded service client; where tenancy is off, the one given.

    Raises:
        TenantMismatchError: It is bound to another tenant or namespace.
    """
    if not shared.has_tenancy:
        return service
    grants = DirectoryGrants(shared.placements, namespace)
    if isinstance(service, GuardedServiceClient):
        return service.rebound(tenant=tenant, namespace=namespace, grants=grants)
    return GuardedServiceClient(
        service,
        tenant=tenant,
        namespace=namespace,
        settings=shared.config.tenancy,
        grants=grants,
        owners=shared.owners,
        labels=shared.labels,
    )


def _farthest(worker_side: WorkerSide, tenant: str | AllTenants | None) -> list[client.Interceptor]:
    """Those of the worker, which takes them from here; a tenant's client can make none."""
    if not isinstance(tenant, str):
        return [*worker_side.interceptors]
    tracing = worker_side.tracing
    return [] if tracing is None else [tracing.for_tenant(tenant)]


_Interceptor = TypeVar("_Interceptor")


def is_ours(interceptor: object) -> bool:
    """Whether an interceptor came from a plugin of ours."""
    return isinstance(
        interceptor,
        TenantInterceptor | TenantWorkerInterceptor | TracingClientInterceptor | TracingInterceptor,
    )


def without_ours(interceptors: Iterable[_Interceptor]) -> list[_Interceptor]:
    """The interceptors of others, in their order."""
    return [interceptor for interceptor in interceptors if not is_ours(interceptor)]


def span_counts(plugins: Iterable[OrkestraPlugin]) -> SpanCounts:
    """What became of the spans of plugins, which may share where they send them."""
    # Plugins of one manager share a sink, whose counts must not be added up.
    sinks: dict[int, TraceSink] = {}
    tracing: dict[int, TracingInterceptor] = {}
    for plugin in plugins:
        sink, ours = plugin._shared.sink, plugin._worker_side.tracing  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one package
        if sink is not None:
            sinks[id(sink)] = sink
        if ours is not None:
            tracing[id(ours)] = ours
    held = SpanCounts(held=sum(each.held for each in tracing.values()))
    taken = [getattr(each, "counts", SpanCounts()) for each in sinks.values()]
    return SpanCounts.sum([held, *taken])


@cache
def settle_at_exit() -> None:
    """Wait a little at the end of the process, once however many ask for it.

    A script of the bare SDK that ended right after a call aborted in 12 of 50 runs (signals 6 and
    11, "PyGILState_Release"), because a thread of the core was still handing over a result; with
    this pause before the end, alternating with the others, in none of 50.
    """
    atexit.register(time.sleep, 0.05)
