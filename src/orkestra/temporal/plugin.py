"""`OrkestraPlugin`: everything that Orkestra puts into a client and into its workers.

Order is what this module decides. A client gets the guard around its service client, the
interceptors of workers first (the SDK takes them from the client), then those of users, then the
tenant's, next to the server. A worker checks the tenant of its work before any other interceptor
sees it; where another would come first, it cannot be made (B15).
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, Self, TypeVar
from weakref import WeakKeyDictionary

from temporalio import client, worker
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.caches import LruCache
from orkestra.config import OrkestraConfig, TenancySettings
from orkestra.directory import Placements, StaticTenantDirectory, TenantDirectory, TenantLabels
from orkestra.errors import ConfigurationError, ForbiddenOperationError, TenantMismatchError
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.guard import (
    GuardedServiceClient,
    GuardPolicy,
    OwnershipLookup,
    unguarded_service,
)
from orkestra.temporal.run_hooks import HookFactory, with_run_hooks
from orkestra.temporal.sandbox import sandbox_runner
from orkestra.temporal.tenant import TenantInterceptor, TenantWorkerInterceptor
from orkestra.temporal.tracing import TracingClientInterceptor, TracingInterceptor, TracingOptions
from orkestra.tenancy import AllTenants, check_tenant_id
from orkestra.tracing import SpanCounts

if TYPE_CHECKING:
    # Tracing is optional: `import orkestra` must not import its Langfuse side.
    from orkestra.langfuse import LangfuseProjects, LangfuseSink

_logger: Final = logging.getLogger("orkestra.temporal.plugin")

_Interceptor = TypeVar("_Interceptor")
_CACHED_TENANT_CLIENTS: Final = 256
_EXIT_PAUSE_SECONDS: Final = 0.05


class OrkestraPlugin(client.Plugin, worker.Plugin):
    """Plugin for a client and all its workers: tenancy, tracing and the sandbox policy.

    Give it to the client; workers take it from there. Bind it to a tenant with `Client.connect()`
    or `create_temporal_client()`: `Client.config()` returns what the client was made from, which
    for `Client(service_client, plugins=...)` is a service client without a guard.

    Example:
        ```python
        client = await Client.connect("localhost:7233", plugins=[OrkestraPlugin(config)])
        ```
    """

    __module__ = "orkestra.temporal.plugin"  # the server shows it in the plugin's name

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
            directory: The tenants; None means those of the configuration, or, where it names
                none, that every well-formed tenant is known.

        Raises:
            InvalidTenantError: The tenant is malformed.
            ConfigurationError: The tenants of the configuration are malformed or contradictory.
        """
        sleep_at_exit()
        self._state = PluginState.of(config or OrkestraConfig(), directory)
        self._is_derived = False
        self._clients = WeakKeyDictionary[client.Client, LruCache[str, client.Client]]()
        self._worker = WorkerIntegration(self._state, bind=self._client_of)
        self._bind(tenant)

    def for_tenant(self, tenant: str | AllTenants | None) -> "OrkestraPlugin":
        """Make a plugin that is bound to the tenant and shares everything else with this one.

        Args:
            tenant: As in the constructor; for a bound plugin only its own.

        Raises:
            InvalidTenantError: The tenant is malformed.
            TenantMismatchError: This plugin is bound, and not to this tenant.
        """
        if isinstance(tenant, str):
            tenant = check_tenant_id(tenant)
        if isinstance(self._tenant, str) and tenant != self._tenant:
            msg = f"cannot make a plugin for {tenant!r}: this one is bound to {self._tenant!r}"
            raise TenantMismatchError(msg)
        bound = object.__new__(type(self))
        vars(bound).update(vars(self))
        bound._is_derived = True
        bound._bind(tenant)
        return bound

    def limited_to(self, tenants: Collection[str]) -> "OrkestraPlugin":
        """Make a plugin whose workers serve some tenants only; it shares everything else.

        Args:
            tenants: The tenants to serve. Only for queues that are theirs alone: work of others
                that arrives there fails its task, and is retried on other workers.

        Raises:
            InvalidTenantError: A tenant is malformed.
        """
        limited = object.__new__(type(self))
        vars(limited).update(vars(self))
        limited._clients = WeakKeyDictionary[client.Client, LruCache[str, client.Client]]()
        limited._worker = WorkerIntegration(
            self._state,
            bind=limited._client_of,
            tenants=frozenset(check_tenant_id(tenant) for tenant in tenants),
        )
        return limited

    @property
    def config(self) -> OrkestraConfig:
        """The configuration, credentials included.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may have it.
        """
        self._keep_from_tenants("the configuration", "it has credentials")
        return self._state.config

    @property
    def placements(self) -> Placements:
        """Directory of all tenants.

        Raises:
            ForbiddenOperationError: The plugin is bound to a tenant, whose code may have it.
        """
        self._keep_from_tenants("the directory", "it has other tenants")
        return self._state.placements

    @property
    def lost_spans(self) -> Mapping[str, int]:
        """Number of lost spans by reason; empty where tracing is off."""
        sink = self._state.sink
        return {} if sink is None else {str(reason): n for reason, n in sink.lost.items()}

    @property
    def search_attribute(self) -> str:
        """Name of the search attribute that shows the tenant."""
        return self._state.config.tenancy.search_attribute

    @property
    def tenancy(self) -> TenancySettings:
        """Settings of tenancy."""
        return self._state.config.tenancy

    @property
    def tracing_options(self) -> TracingOptions:
        """Options for the spans of workflows."""
        return self._state.tracing_options

    @property
    def tenant(self) -> str | AllTenants | None:
        """The tenant that the client is bound to."""
        return self._tenant

    async def project_of(self, tenant: str | None) -> "LangfuseSink | None":
        """Find the project for the spans of a tenant; None where they are not sent.

        Args:
            tenant: The tenant; None for spans that belong to none.

        Raises:
            TenantMismatchError: The plugin is bound to another tenant.
            ConfigurationError: Tracing is off.
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        is_bound = isinstance(self._tenant, str) and self._state.has_tenancy
        if is_bound and tenant != self._tenant:
            msg = f"{self._tenant!r} must not see the traces of tenant {tenant!r}"
            raise TenantMismatchError(msg)
        if self._state.sink is None:
            msg = "tracing is off: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
            raise ConfigurationError(msg)
        return await self._state.sink.project(tenant)

    async def flush(self, timeout: timedelta | None = None) -> bool:
        """Send the spans that wait to be sent.

        Args:
            timeout: How long to wait; None means `langfuse.flush_timeout`.

        Returns:
            Whether all were sent in time; True where tracing is off.
        """
        if self._state.sink is None:
            return True
        timeout = timeout or self._state.config.langfuse.flush_timeout
        return await self._state.sink.flush(timeout)

    async def close(self) -> None:
        """Send the spans that wait, within `langfuse.flush_timeout`, and close everything.

        For plugins that you made; `TemporalConnectionManager.close()` closes its own. It may be
        called again.

        Raises:
            ForbiddenOperationError: The plugin came from `for_tenant()`, and shares its state.
        """
        if self._is_derived:
            msg = "a plugin from for_tenant() shares its state: close the plugin that it came from"
            raise ForbiddenOperationError(msg)
        if self._state.sink is not None:
            await self._state.sink.close(self._state.config.langfuse.flush_timeout)

    def configure_client(self, config: client.ClientConfig) -> client.ClientConfig:
        """See base class.

        Raises:
            TenantMismatchError: The service client is bound to another tenant or namespace.
        """
        namespace = config["namespace"]
        service = self.guard(config["service_client"], namespace=namespace)
        innermost: list[client.Interceptor] = []
        if self._state.has_tenancy:
            innermost.append(
                TenantInterceptor(
                    self._state.config.tenancy,
                    tenant=self._tenant,
                    placements=self._state.placements,
                    namespace=namespace,
                    labels=self._state.labels,
                    on_refusal=service.count_refused
                    if isinstance(service, GuardedServiceClient)
                    else None,
                )
            )
        user_interceptors = without_orkestra_interceptors(config.get("interceptors", ()))
        config["interceptors"] = [*self._outermost(), *user_interceptors, *innermost]
        config["service_client"] = service
        return config

    def _outermost(self) -> list[client.Interceptor]:
        """Return the worker's interceptors; a tenant's client can make no worker."""
        if not isinstance(self._tenant, str):
            return [*self._worker.interceptors]
        tracing = self._worker.tracing
        return [] if tracing is None else [tracing.for_tenant(self._tenant)]

    def guard(self, service: ServiceClient, *, namespace: str) -> ServiceClient:
        """Put the guard of this plugin's tenant around a service client.

        Args:
            service: A service client; one that has a guard gets this one instead.
            namespace: The only namespace that its requests may name.

        Returns:
            The guarded service client; where tenancy is off, the one given.

        Raises:
            TenantMismatchError: It is bound to another tenant or namespace.
        """
        state = self._state
        if not state.has_tenancy:
            return service
        if isinstance(service, GuardedServiceClient):
            return service.rebound(
                tenant=self._tenant, namespace=namespace, placements=state.placements
            )
        return GuardedServiceClient(
            service, tenant=self._tenant, namespace=namespace, policy=state.policy
        )

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        """See base class.

        Guarded already here, so that a client made from this one's configuration without the
        plugin is guarded, too. The namespace becomes known when the client is made.
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
        return self._worker.configure(config)

    async def run_worker(
        self, worker: worker.Worker, next: Callable[[worker.Worker], Awaitable[None]]
    ) -> None:
        """See base class."""
        if self._state.sink is not None:
            await self._state.sink.opened()
        try:
            with self._worker.running(worker):
                await next(worker)
        finally:
            await self.flush()

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """See base class."""
        return self._worker.configure_replayer(config)

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

    def _keep_from_tenants(self, what: str, why: str) -> None:
        if isinstance(self._tenant, str):
            raise ForbiddenOperationError(f"{what} is not for tenant {self._tenant!r}: {why}")

    def _client_of(self, owner: client.Client, tenant: str) -> client.Client:
        """Bind the worker's client to the tenant, for tasks that ask for their client."""
        clients = self._clients.get(owner)
        if clients is None:
            clients = self._clients.setdefault(owner, LruCache(_CACHED_TENANT_CLIENTS))
        bound = clients.get(tenant)
        if bound is None:
            bound = with_plugin(owner, self.for_tenant(tenant), namespace=owner.namespace)
            clients.put(tenant, bound)
        return bound

    def _bind(self, tenant: str | AllTenants | None) -> None:
        if isinstance(tenant, AllTenants):
            _logger.warning("A client acts for ALL_TENANTS: its calls can reach every tenant")
        elif tenant is not None:
            tenant = check_tenant_id(tenant)
        self._tenant = tenant


def plugin_of(owner: client.Client) -> OrkestraPlugin:
    """Find the client's `OrkestraPlugin`.

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
    """Make the same client with another `OrkestraPlugin`.

    It is guarded beforehand, because `Client.config()` returns what the client was made from.
    """
    config = owner.config()
    config["service_client"] = plugin.guard(owner.service_client, namespace=namespace)
    config["plugins"] = [plugin if isinstance(p, OrkestraPlugin) else p for p in config["plugins"]]
    config["namespace"] = namespace
    return client.Client(**config)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PluginState:
    """State that plugins made from one another share, whatever they are bound or limited to.

    Attributes:
        config: The configuration, credentials included.
        placements: Directory of all tenants.
        labels: Metric labels.
        sink: Destination of spans; None where tracing is off.
        policy: Settings and caches of the guarded clients.
    """

    config: OrkestraConfig
    placements: Placements
    labels: TenantLabels
    sink: "LangfuseProjects | None"
    policy: GuardPolicy

    @classmethod
    def of(cls, config: OrkestraConfig, directory: TenantDirectory | None) -> Self:
        """Prepare the state; nothing is opened yet."""
        if directory is None and config.tenants:
            directory = StaticTenantDirectory.from_settings(config.tenants)
        placements = Placements(directory, shared_namespace=config.temporal.namespace)
        labels = TenantLabels(placements if config.tenancy.metrics_tenant_label else None)
        return cls(
            config=config,
            placements=placements,
            labels=labels,
            sink=_sink(config, placements),
            policy=GuardPolicy(settings=config.tenancy, placements=placements, labels=labels),
        )

    @property
    def has_tenancy(self) -> bool:
        """True where calls carry a tenant."""
        return self.config.tenancy.mode != "off"

    @property
    def tracing_options(self) -> TracingOptions:
        """Options for the spans of workflows."""
        return TracingOptions(
            ui_url=self.config.temporal.ui_url,
            queries=self.config.langfuse.queries,
            timer_threshold=self.config.langfuse.timer_threshold or None,
        )


def _sink(config: OrkestraConfig, placements: Placements) -> "LangfuseProjects | None":
    settings = config.langfuse
    has_projects = any(tenant.langfuse is not None for tenant in config.tenants.values())
    if not (settings.is_on or (has_projects and settings.enabled is not False)):
        return None
    from orkestra.langfuse import LangfuseProjects  # noqa: PLC0415 - off means not imported

    return LangfuseProjects(settings, placements.known_project, placements.of)


class WorkerIntegration:
    """Interceptors and hooks that a plugin gives to workers and replayers.

    Attributes:
        tenancy: Checks the tenant of arriving work; None where tenancy is off.
        tracing: Makes spans of it; None where tracing is off.

    Args:
        state: State of the plugin.
        bind: Makes the client of a tenant from the worker's, for tasks that ask for it.
        tenants: The only tenants to serve; None means all.
    """

    def __init__(
        self,
        state: PluginState,
        *,
        bind: Callable[[client.Client, str], client.Client],
        tenants: Collection[str] | None = None,
    ) -> None:
        self._state = state
        self.tenancy: TenantWorkerInterceptor | None = None
        self.tracing: TracingInterceptor | None = None
        # Tenant first: it decides whether tracing may look at the arguments at all.
        self.interceptors: list[TenantWorkerInterceptor | TracingInterceptor] = []
        if state.has_tenancy:
            self.tenancy = TenantWorkerInterceptor(
                state.config.tenancy,
                placements=state.placements,
                tenants=tenants,
                bind=bind,
                labels=state.labels,
            )
            self.interceptors.append(self.tenancy)
        if state.sink is not None:
            self.tracing = TracingInterceptor(
                state.sink,
                identity=state.config.temporal.identity,
                options=state.tracing_options,
            )
            self.interceptors.append(self.tracing)

    def configure(self, config: worker.WorkerConfig) -> worker.WorkerConfig:
        """Add interceptors and hooks to the configuration of a worker.

        Raises:
            ConfigurationError: An interceptor would see work before it has been checked.
        """
        self._add_interceptors(config)
        ownership = None
        if "client" in config:
            ownership = OwnershipLookup(
                unguarded_service(config["client"]).workflow_service,
                namespace=config["client"].namespace,
                header=self._state.config.tenancy.header,
                cache=self._state.policy.ownership,
            )
        hooks: list[HookFactory] = []
        if self.tracing is not None:
            hooks.append(self.tracing.run_hook)
        if self.tenancy is not None:
            hooks.append(self.tenancy.hook_factory(ownership))
        self._wrap_runners(config, hooks)
        return config

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """Add what a replay needs: it sends no spans, and makes no calls."""
        user_interceptors = config["interceptors"] if "interceptors" in config else ()
        interceptors: list[worker.Interceptor] = []
        hooks: list[HookFactory] = []
        if self.tenancy is not None:
            interceptors.append(self.tenancy)
            hooks.append(self.tenancy.replay_hook)
        if self.tracing is not None:
            interceptors.append(self.tracing.for_replayer())
        config["interceptors"] = [*interceptors, *without_orkestra_interceptors(user_interceptors)]
        self._wrap_runners(config, hooks)
        return config

    @contextmanager
    def running(self, running: worker.Worker) -> Generator[None]:
        """Register a worker with its connection, and clean up after it."""
        service = unguarded_service(running.client)
        try:
            if isinstance(service, ManagedServiceClient):
                with service.connection.working(f"task queue {running.task_queue!r}", running):
                    yield
            else:
                yield
        finally:
            if self.tracing is not None:
                self.tracing.flush_queue(running.task_queue)
            config = running.config()
            threads = config["activity_executor"] if "activity_executor" in config else None
            if isinstance(threads, ActivityThreadPool):
                # Idle threads end now; busy ones are not waited for.
                threads.shutdown(wait=False, cancel_futures=True)

    def _wrap_runners(
        self,
        config: worker.WorkerConfig | worker.ReplayerConfig,
        hooks: Sequence[HookFactory],
    ) -> None:
        if "workflow_runner" in config:
            runner = config["workflow_runner"]
            if isinstance(runner, SandboxedWorkflowRunner):
                workflows = config["workflows"] if "workflows" in config else ()
                runner = sandbox_runner(runner, workflows, self._state.config.worker.sandbox)
            config["workflow_runner"] = with_run_hooks(runner, hooks)
        if "unsandboxed_workflow_runner" in config:
            runner = config["unsandboxed_workflow_runner"]
            config["unsandboxed_workflow_runner"] = with_run_hooks(runner, hooks)

    def _add_interceptors(self, config: worker.WorkerConfig) -> None:
        """Add Orkestra's where the client has not brought them, and check that they come first."""
        worker_client = config["client"] if "client" in config else None
        if worker_client is None:
            return
        of_client = worker_client.config(active_config=True)["interceptors"]
        of_worker = config["interceptors"] if "interceptors" in config else ()
        present = [i for i in (*of_client, *of_worker) if isinstance(i, worker.Interceptor)]
        if not any(is_orkestra_interceptor(interceptor) for interceptor in present):
            config["interceptors"] = [*self.interceptors, *of_worker]
            present = [i for i in of_client if isinstance(i, worker.Interceptor)]
        if self._state.has_tenancy and present and not is_orkestra_interceptor(present[0]):
            msg = (
                f"interceptor {type(present[0]).__name__} would see work before its tenant is"
                " checked: give OrkestraPlugin as the last plugin of the client"
            )
            raise ConfigurationError(msg)


class ActivityThreadPool(ThreadPoolExecutor):
    """Threads for the activities of one worker that are not async; they end with the worker.

    A class of its own, so that executors of users are left alone.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, thread_name_prefix="orkestra-activity")
        self._size = size

    def new(self) -> Self:
        """Make a pool of the same size, for a worker that replaces the first."""
        return type(self)(self._size)


def is_orkestra_interceptor(interceptor: object) -> bool:
    """Check whether an interceptor came from an `OrkestraPlugin`, in a cloned config, too."""
    return isinstance(
        interceptor,
        TenantInterceptor | TenantWorkerInterceptor | TracingClientInterceptor | TracingInterceptor,
    )


def without_orkestra_interceptors(interceptors: Iterable[_Interceptor]) -> list[_Interceptor]:
    """Return the interceptors of users, in their order."""
    return [each for each in interceptors if not is_orkestra_interceptor(each)]


def span_counts(plugins: Iterable[OrkestraPlugin]) -> SpanCounts:
    """Add up the spans of plugins; plugins of one manager share a sink, which counts once."""
    sinks: dict[int, LangfuseProjects] = {}
    tracing: dict[int, TracingInterceptor] = {}
    for plugin in plugins:
        sink, interceptor = plugin._state.sink, plugin._worker.tracing  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of the same module
        if sink is not None:
            sinks[id(sink)] = sink
        if interceptor is not None:
            tracing[id(interceptor)] = interceptor
    held = SpanCounts(held=sum(each.held for each in tracing.values()))
    return SpanCounts.sum([held, *(sink.counts for sink in sinks.values())])


@cache
def sleep_at_exit() -> None:
    """Register a short sleep at the end of the process, once.

    A script of the bare SDK that ended right after a call aborted in 12 of 50 runs (signals 6 and
    11, "PyGILState_Release"), because a thread of the core was still handing over a result. With
    the sleep, in runs alternating with the others, none of 50 did.
    """
    atexit.register(time.sleep, _EXIT_PAUSE_SECONDS)
