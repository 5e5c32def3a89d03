"""The workers of the matrix: with a cache, without one, and one without Orkestra."""

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from temporalio import workflow
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import (
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from orkestra import OrkestraPlugin
from tests.matrix.side import Side
from tests.support.forged_headers import tenant_header
from tests.support.names import Fresh
from tests.workflows import activities, everything, matrix


class ForgingWorker(Interceptor):
    """Writes the tenant that a workflow's memo names as `forged` into all that it sends."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        return _ForgingInbound


class _ForgingInbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_ForgingOutbound(outbound))


class _ForgingOutbound(WorkflowOutboundInterceptor):
    def continue_as_new(self, input: Any) -> NoReturn:
        super().continue_as_new(_forged(input))

    async def signal_child_workflow(self, input: Any) -> None:
        await super().signal_child_workflow(_forged(input))

    async def signal_external_workflow(self, input: Any) -> None:
        await super().signal_external_workflow(_forged(input))

    def start_activity(self, input: Any) -> Any:
        return super().start_activity(_forged(input))

    def start_local_activity(self, input: Any) -> Any:
        return super().start_local_activity(_forged(input))

    async def start_child_workflow(self, input: Any) -> Any:
        return await super().start_child_workflow(_forged(input))

    async def start_nexus_operation(self, input: Any) -> Any:
        forged = workflow.memo_value("forged", None)
        if forged is not None:
            input.headers = {**(input.headers or {}), "TENANTID": forged}
        return await super().start_nexus_operation(input)


def _forged(input: Any) -> Any:
    forged = workflow.memo_value("forged", None)
    if forged is not None:
        input.headers = {**input.headers, **tenant_header(forged)}
    return input


@dataclass(frozen=True)
class Stage:
    """Queues and endpoints by the kind of worker that serves them."""

    raw: Client
    fresh: Fresh
    plugin: OrkestraPlugin
    endpoints: Mapping[str, str]

    @classmethod
    def without_workers(cls, raw: Client) -> Self:
        """A side whose queue has no worker."""
        endpoints = {"cached": "none", "replayed": "none"}
        return cls(raw, Fresh(), OrkestraPlugin(), endpoints)

    def sides(self, worker: str) -> tuple[Side, Side]:
        """Two fresh tenants that use the same names, each the other's rival."""
        fresh = Fresh()
        acme, beta = fresh.tenant("acme"), fresh.tenant("beta")

        def side(tenant: str, rival: str) -> Side:
            return Side(
                raw=self.raw,
                plugin=self.plugin,
                tenant=tenant,
                rival=rival,
                queue=self.fresh.task_queue(worker),
                foreign_queue=self.fresh.task_queue("foreign"),
                endpoint=self.endpoints[worker],
                suffix=fresh.suffix,
            )

        return side(acme, beta), side(beta, acme)


@asynccontextmanager
async def set_up(raw: Client) -> AsyncIterator[Stage]:
    """Start the workers and yield their queues."""
    fresh = Fresh()
    plugin = OrkestraPlugin()
    endpoints = {worker: await _endpoint(raw, fresh, worker) for worker in ("cached", "replayed")}
    async with AsyncExitStack() as stack:
        for kind, cache in (("cached", 1000), ("replayed", 0)):
            threads = stack.enter_context(ThreadPoolExecutor(4))
            worker = Worker(
                Client(raw.service_client, plugins=[plugin]),
                task_queue=fresh.task_queue(kind),
                workflows=[*matrix.WORKFLOWS, *everything.WORKFLOWS],
                activities=activities.ACTIVITIES,
                nexus_service_handlers=[matrix.DeskHandler()],
                nexus_task_executor=threads,
                interceptors=[ForgingWorker()],
                max_cached_workflows=cache,
            )
            await stack.enter_async_context(worker)
        foreign = Worker(
            raw,
            task_queue=fresh.task_queue("foreign"),
            workflows=[matrix.Does, matrix.Whose],
            activities=[activities.whose_activity],
            interceptors=[ForgingWorker()],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        await stack.enter_async_context(foreign)
        try:
            yield Stage(raw, fresh, plugin, endpoints)
        finally:
            await _end_all(raw, fresh)


async def _end_all(raw: Client, fresh: Fresh) -> None:
    """Terminate workflows and activities that cells left running."""
    queues = ", ".join(f"'{fresh.task_queue(kind)}'" for kind in ("cached", "replayed", "foreign"))
    running = f"TaskQueue IN ({queues}) AND ExecutionStatus = 'Running'"
    async for row in raw.list_workflows(running):
        with suppress(RPCError):
            await raw.get_workflow_handle(row.id, run_id=row.run_id).terminate()
    async for activity in raw.list_activities(running):
        with suppress(RPCError):
            await raw.get_activity_handle(activity.activity_id).terminate()


async def _endpoint(raw: Client, fresh: Fresh, worker: str) -> str:
    name = f"matrix-{worker}-{fresh.suffix}"
    target = EndpointTarget.Worker(namespace=raw.namespace, task_queue=fresh.task_queue(worker))
    spec = EndpointSpec(name=name, target=EndpointTarget(worker=target))
    await raw.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    return name
