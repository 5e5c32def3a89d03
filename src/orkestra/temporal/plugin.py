"""`OrkestraPlugin`: everything of Orkestra that hooks into the SDK, as one standard plugin."""

import atexit
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import cache
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from temporalio import client, worker
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.config import LangfuseProject, OrkestraConfig, TenancySettings
from orkestra.directory import (
    Placements,
    StaticTenantDirectory,
    TenantDirectory,
    TenantLabels,
)
from orkestra.errors import ConfigurationError, ForbiddenOperationError, TenantMismatchError
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.granting import DirectoryGrants
from orkestra.temporal.guard import GuardedServiceClient, OwnerMemory, Owners
from orkestra.temporal.interceptors.tenant import TenantInterceptor, TenantWorkerInterceptor
from orkestra.temporal.interceptors.tracing import TracingInterceptor, TracingOptions
from orkestra.temporal.runner import HookFactory, hooked
from orkestra.temporal.sandbox import sandbox_runner
from orkestra.temporal.threads import ActivityThreads
from orkestra.temporal.unconfined import unconfined_service
from orkestra.tenancy import AllTenants, check_tenant_id
from orkestra.tracing import SpanCounts, TraceProject, TraceSink

_logger: Final = logging.getLogger(__name__)
_REMEMBERED_TENANTS: Final = 256


_OurInterceptor: TypeAlias = TenantWorkerInterceptor | TracingInterceptor


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
        _settle_at_exit()
        self._config: OrkestraConfig = config or OrkestraConfig()
        self._placements: Placements = _placements(self._config, directory)
        self._is_shared = False
        self._limit: frozenset[str] | None = None
        self._owners = OwnerMemory()
        is_labelled = self._config.tenancy.metrics_tenant_label
        self._labels = TenantLabels(self._placements if is_labelled else None)
        self._bound = WeakKeyDictionary[client.Client, dict[str, client.Client]]()
        self._sink = _sink(self._config, self._placements)
        self._worker_interceptors = self._make_worker_interceptors()
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
        bound._is_shared = True
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
        limited._limit = frozenset(check_tenant_id(tenant) for tenant in tenants)
        limited._worker_interceptors = limited._make_worker_interceptors()
        return limited

    @property
    def config(self) -> OrkestraConfig:
        """The configuration, credentials included.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may hold it.
        """
        if isinstance(self._tenant, str):
            msg = f"the configuration is not for tenant {self._tenant!r}: it has credentials"
            raise ForbiddenOperationError(msg)
        return self._config

    @property
    def placements(self) -> Placements:
        """What the directory says of every tenant.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may hold it.
        """
        if isinstance(self._tenant, str):
            msg = f"the directory is not for tenant {self._tenant!r}: it says where others are"
            raise ForbiddenOperationError(msg)
        return self._placements

    @property
    def lost_spans(self) -> Mapping[str, int]:
        """How many spans were lost, by reason; none where tracing is off."""
        lost: Mapping[str, int] = getattr(self._sink, "lost", {})
        return lost

    @property
    def search_attribute(self) -> str:
        """Name of the search attribute that shows the tenant."""
        return self._config.tenancy.search_attribute

    @property
    def tenancy(self) -> TenancySettings:
        """How tenants are carried."""
        return self._config.tenancy

    @property
    def tracing_options(self) -> TracingOptions:
        """Which spans are made of workflows."""
        return _tracing_options(self._config)

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
        is_bound = isinstance(self._tenant, str) and self._config.tenancy.mode != "off"
        if is_bound and tenant != self._tenant:
            msg = f"the traces of tenant {tenant!r} are not for {self._tenant!r}"
            raise TenantMismatchError(msg)
        if self._sink is None:
            msg = "tracing is off: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
            raise ConfigurationError(msg)
        return await self._sink.project(tenant)

    async def flush(self, timeout: timedelta | None = None) -> bool:
        """Send the spans that wait to be sent.

        Args:
            timeout: How long to wait; None means `langfuse.flush_timeout`.

        Returns:
            Whether all were sent in time; True where tracing is off.
        """
        if self._sink is None:
            return True
        return await self._sink.flush(timeout or self._config.langfuse.flush_timeout)

    async def close(self) -> None:
        """Send the spans that wait, within `langfuse.flush_timeout`, and let go of everything.

        For plugins of one's own; `TemporalConnectionManager.close()` closes its own. It may be
        called again.

        Raises:
            ForbiddenOperationError: The plugin came from `for_tenant()`, and shares with others.
        """
        if self._is_shared:
            msg = "a plugin made by for_tenant() shares with others: close the one it came from"
            raise ForbiddenOperationError(msg)
        if self._sink is not None:
            await self._sink.close(self._config.langfuse.flush_timeout)

    def configure_client(self, config: client.ClientConfig) -> client.ClientConfig:
        """See base class."""
        theirs = [i for i in config.get("interceptors", ()) if not _is_ours(i)]
        ours: list[client.Interceptor] = []
        service = self.guard(config["service_client"], namespace=config["namespace"])
        if self._config.tenancy.mode != "off":
            ours.append(
                TenantInterceptor(
                    self._config.tenancy,
                    tenant=self._tenant,
                    placements=self._placements,
                    namespace=config["namespace"],
                    labels=self._labels,
                    on_refusal=service.count_refused
                    if isinstance(service, GuardedServiceClient)
                    else None,
                )
            )
        config["interceptors"] = [*self._client_interceptors(), *theirs, *ours]
        config["service_client"] = service
        return config

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
        if self._config.tenancy.mode == "off":
            return service
        grants = DirectoryGrants(self._placements, namespace)
        if isinstance(service, GuardedServiceClient):
            return service.rebound(tenant=self._tenant, namespace=namespace, grants=grants)
        return GuardedServiceClient(
            service,
            tenant=self._tenant,
            namespace=namespace,
            settings=self._config.tenancy,
            grants=grants,
            owners=self._owners,
            labels=self._labels,
        )

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
        self._add_to_worker(config)
        owners = self._owners_for(config["client"]) if "client" in config else None
        hooks: list[HookFactory] = [each.run_hook for each in self._tracing()]
        hooks += [each.hook_factory(owners) for each in self._tenancy()]
        self._wrap_runners(config, hooks)
        return config

    async def run_worker(
        self, worker: worker.Worker, next: Callable[[worker.Worker], Awaitable[None]]
    ) -> None:
        """See base class."""
        service = unconfined_service(worker.client)
        if self._sink is not None:
            await self._sink.opened()
        try:
            if isinstance(service, ManagedServiceClient):
                with service.connection.working(f"task queue {worker.task_queue!r}", worker):
                    await next(worker)
            else:
                await next(worker)
        finally:
            for tracing in self._tracing():
                tracing.settle(worker.task_queue)
            config = worker.config()
            threads = config["activity_executor"] if "activity_executor" in config else None
            if isinstance(threads, ActivityThreads):
                threads.end()
            await self.flush()

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """See base class."""
        given = config["interceptors"] if "interceptors" in config else ()
        theirs = [interceptor for interceptor in given if not _is_ours(interceptor)]
        ours = [
            each.for_replayer() if isinstance(each, TracingInterceptor) else each
            for each in self._worker_interceptors
        ]
        config["interceptors"] = [*ours, *theirs]
        self._wrap_runners(config, [each.replay_hook for each in self._tenancy()])
        return config

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

    def _owners_for(self, owner: client.Client) -> Owners:
        return Owners(
            unconfined_service(owner).workflow_service,
            namespace=owner.namespace,
            header=self._config.tenancy.header,
            memory=self._owners,
        )

    def _tenancy(self) -> list[TenantWorkerInterceptor]:
        return [i for i in self._worker_interceptors if isinstance(i, TenantWorkerInterceptor)]

    def _tracing(self) -> list[TracingInterceptor]:
        return [i for i in self._worker_interceptors if isinstance(i, TracingInterceptor)]

    def _wrap_runners(
        self,
        config: worker.WorkerConfig | worker.ReplayerConfig,
        hooks: Sequence[HookFactory],
    ) -> None:
        if "workflow_runner" in config:
            runner = config["workflow_runner"]
            if isinstance(runner, SandboxedWorkflowRunner):
                workflows = config["workflows"] if "workflows" in config else ()
                runner = sandbox_runner(runner, workflows, self._config.worker.sandbox)
            config["workflow_runner"] = hooked(runner, hooks)
        if "unsandboxed_workflow_runner" in config:
            runner = config["unsandboxed_workflow_runner"]
            config["unsandboxed_workflow_runner"] = hooked(runner, hooks)

    def _client_interceptors(self) -> list[_OurInterceptor]:
        """Those of the worker, which takes them from here; tracing is told for whom it acts."""
        tenant = self._tenant
        if not isinstance(tenant, str):
            return list(self._worker_interceptors)
        return [
            each.for_tenant(tenant) if isinstance(each, TracingInterceptor) else each
            for each in self._worker_interceptors
        ]

    def _make_worker_interceptors(self) -> tuple[_OurInterceptor, ...]:
        """Tenant first: it decides whether tracing may look at the arguments at all."""
        made: list[_OurInterceptor] = []
        if self._config.tenancy.mode != "off":
            made.append(
                TenantWorkerInterceptor(
                    self._config.tenancy,
                    placements=self._placements,
                    tenants=self._limit,
                    bind=self._bound_client,
                    labels=self._labels,
                )
            )
        if self._sink is not None:
            made.append(
                TracingInterceptor(
                    self._sink,
                    identity=self._config.temporal.identity,
                    options=_tracing_options(self._config),
                )
            )
        return tuple(made)

    def _bound_client(self, owner: client.Client, tenant: str) -> client.Client:
        """The worker's client as a tenant's activities get it."""
        bound = self._bound.setdefault(owner, {})
        if tenant not in bound:
            if len(bound) >= _REMEMBERED_TENANTS:
                bound.clear()
            bound[tenant] = with_plugin(owner, self.for_tenant(tenant), namespace=owner.namespace)
        return bound[tenant]

    def _bind(self, tenant: str | AllTenants | None) -> None:
        if isinstance(tenant, AllTenants):
            _logger.warning("A client acts for ALL_TENANTS: its calls are not confined to one")
        elif tenant is not None:
            tenant = check_tenant_id(tenant)
        self._tenant = tenant

    def _add_to_worker(self, config: worker.WorkerConfig) -> None:
        """Add ours where the client has not brought them, and see that they come first."""
        worker_client = config["client"] if "client" in config else None
        if worker_client is None:
            return
        of_client = worker_client.config(active_config=True)["interceptors"]
        of_worker = config["interceptors"] if "interceptors" in config else ()
        present = [i for i in (*of_client, *of_worker) if isinstance(i, worker.Interceptor)]
        if not any(_is_ours(interceptor) for interceptor in present):
            config["interceptors"] = [*self._worker_interceptors, *of_worker]
            present = [i for i in of_client if isinstance(i, worker.Interceptor)]
        if self._config.tenancy.mode != "off" and present and not _is_ours(present[0]):
            msg = (
                f"interceptor {type(present[0]).__name__} would see work before its tenant is"
                " checked: give OrkestraPlugin as the last plugin of the client"
            )
            raise ConfigurationError(msg)


def span_counts(plugins: Iterable[OrkestraPlugin]) -> SpanCounts:
    """What became of the spans of plugins, which may share where they send them."""
    # Plugins of one manager share a sink, whose counts must not be added up.
    sinks: dict[int, TraceSink] = {}
    tracing: dict[int, TracingInterceptor] = {}
    for plugin in plugins:
        sink = plugin._sink  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one module
        if sink is not None:
            sinks[id(sink)] = sink
        ours = plugin._tracing()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - one module
        tracing |= {id(each): each for each in ours}
    held = SpanCounts(held=sum(each.held for each in tracing.values()))
    taken = [getattr(each, "counts", SpanCounts()) for each in sinks.values()]
    return SpanCounts.sum([held, *taken])


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


@cache
def _settle_at_exit() -> None:
    """Give the SDK's threads a moment before the interpreter goes away under them.

    A script of the bare SDK that ended right after a call aborted in 12 of 50 runs (signals 6 and
    11, "PyGILState_Release"), because a thread of the core was still handing over a result; with
    this pause before the end, alternating with the others, in none of 50.
    """
    atexit.register(time.sleep, 0.05)


def _placements(config: OrkestraConfig, directory: TenantDirectory | None) -> Placements:
    if directory is None and config.tenants:
        directory = StaticTenantDirectory.from_settings(config.tenants)
    return Placements(directory, shared_namespace=config.temporal.namespace)


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


def _tracing_options(config: OrkestraConfig) -> TracingOptions:
    return TracingOptions(
        ui_url=config.temporal.ui_url,
        queries=config.langfuse.queries,
        timer_threshold=config.langfuse.timer_threshold or None,
    )


def _is_ours(interceptor: object) -> bool:
    """Whether an interceptor came from this plugin, in a configuration that was cloned."""
    return isinstance(interceptor, TenantInterceptor | TenantWorkerInterceptor | TracingInterceptor)
