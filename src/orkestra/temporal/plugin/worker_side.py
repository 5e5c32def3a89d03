"""What the plugin puts into workers and replayers, and what it does while a worker runs."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from temporalio import client, worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.errors import ConfigurationError
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.guard import Owners
from orkestra.temporal.interceptors.tenant import TenantWorkerInterceptor
from orkestra.temporal.interceptors.tracing import TracingInterceptor
from orkestra.temporal.plugin.bound_clients import BoundClients
from orkestra.temporal.plugin.ours import is_ours, without_ours
from orkestra.temporal.plugin.shared import Shared
from orkestra.temporal.runner import HookFactory, hooked
from orkestra.temporal.sandbox import sandbox_runner
from orkestra.temporal.threads import ActivityThreads
from orkestra.temporal.unconfined import unconfined_service

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
        service = unconfined_service(ran.client)
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
            unconfined_service(owner).workflow_service,
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
            config["workflow_runner"] = hooked(runner, hooks)
        if "unsandboxed_workflow_runner" in config:
            runner = config["unsandboxed_workflow_runner"]
            config["unsandboxed_workflow_runner"] = hooked(runner, hooks)

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
