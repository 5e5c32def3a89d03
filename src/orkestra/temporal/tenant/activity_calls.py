"""Activities and Nexus handlers: the caller's tenant is the tenant of the code that runs.

Both read the tenant that the call carries, ask the directory whether it belongs on this worker, set
it, and bind the client that the code may ask for. An activity that is refused fails with an
`ApplicationError`, an operation with a `HandlerError`; `TENANT_UNDECIDED` is tried again.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import nexusrpc
import nexusrpc.handler
from temporalio import activity, nexus
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteNexusOperationCancelInput,
    ExecuteNexusOperationStartInput,
    NexusOperationInboundInterceptor,
)

from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantError, TenantMismatchError
from orkestra.temporal._sdk import activity_context, nexus_context
from orkestra.temporal.guard import enter_nexus_task
from orkestra.temporal.tenant.admission import (
    PlacementCheck,
    Refusal,
    count_misplaced,
    count_untenanted,
)
from orkestra.temporal.tenant.stamp import TenantCodec
from orkestra.tenancy import act_for

BindClient: TypeAlias = Callable[[Client, str], Client]
"""Makes a client of a tenant from one that serves all."""


class TenantActivityInbound(ActivityInboundInterceptor):
    """Refuses activities without a tenant, with a contradicted one, or in another's place."""

    def __init__(
        self,
        next: ActivityInboundInterceptor,
        codec: TenantCodec,
        check: PlacementCheck,
        bind: BindClient | None,
    ) -> None:
        super().__init__(next)
        self._codec = codec
        self._check = check
        self._bind = bind

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        tenant = self._read(input)
        # A local activity was admitted with its workflow, and never leaves its worker.
        if not activity.info().is_local:
            await self._check_place(tenant)
        act_for(tenant)
        context = activity_context()
        if tenant is not None and self._bind is not None and context.client is not None:
            # `activity.client()` stays the tenant's, also where code leaves its context (B8).
            context.client = self._bind(context.client, tenant)
        # Coroutines and threads inherit the context (T27).
        if tenant is not None and not isinstance(input.executor, ThreadPoolExecutor | None):
            input.fn = _InAnotherProcess(input.fn, tenant)
        return await super().execute_activity(input)

    def _read(self, input: ExecuteActivityInput) -> str | None:
        info = activity.info()
        try:
            tenant = self._codec.read_header(input.headers)
            if tenant is not None:
                # A standalone activity has no workflow, and its own ID is scoped instead (T8).
                self._codec.check_owner(tenant, info.workflow_id or info.activity_id)
        except TenantMismatchError as error:
            raise self._refuse(Refusal(TENANT_MISMATCH, str(error)), None) from error
        if tenant is None and self._codec.is_required:
            problem = f"it was started without header {self._codec.header!r}"
            raise self._refuse(Refusal(TENANT_REQUIRED, problem), None)
        if tenant is None:
            count_untenanted(activity.metric_meter(), "activity")
        return tenant

    async def _check_place(self, tenant: str | None) -> None:
        info = activity.info()
        refusal = self._check.unserved(tenant, info.task_queue)
        if refusal is not None:
            count_misplaced(activity.metric_meter(), self._codec.labels.of(tenant))
            activity.logger.error("%s", refusal.problem)
        else:
            refusal = await self._check.refusal(
                tenant,
                namespace=info.namespace,
                task_queue=info.task_queue,
                is_start=info.workflow_id is None,
            )
        if refusal is not None:
            raise self._refuse(refusal, tenant)

    def _refuse(self, refusal: Refusal, tenant: str | None) -> ApplicationError:
        counter = activity.metric_meter().create_counter(
            "orkestra_refused_activities", "Activities refused for their tenant"
        )
        counter.add(1, {"kind": refusal.kind} | self._codec.labels.of(tenant))
        activity.logger.warning("Refused activity: %s", refusal.problem)
        message = f"activity refused: {refusal.problem}"
        return ApplicationError(message, type=refusal.kind, non_retryable=refusal.is_final)


@dataclass(frozen=True)
class _InAnotherProcess:
    """An activity function that a pool's process runs for its tenant.

    Context variables do not cross processes; a forked child even keeps the tenant that was current
    when the pool started (T27).
    """

    fn: Callable[..., Any]
    tenant: str

    def __call__(self, *args: Any) -> Any:
        act_for(self.tenant)
        try:
            return self.fn(*args)
        finally:
            # The process stays in the pool, and its next task may be another tenant's.
            act_for(None)


class TenantNexusInbound(NexusOperationInboundInterceptor):
    """Refuses operations without a tenant, or in another's place."""

    def __init__(
        self,
        next: NexusOperationInboundInterceptor,
        codec: TenantCodec,
        check: PlacementCheck,
        bind: BindClient | None,
    ) -> None:
        super().__init__(next)
        self._codec = codec
        self._check = check
        self._bind = bind

    async def execute_nexus_operation_start(
        self, input: ExecuteNexusOperationStartInput
    ) -> (
        nexusrpc.handler.StartOperationResultSync[Any] | nexusrpc.handler.StartOperationResultAsync
    ):
        await self._admit(input.ctx)
        # Before the handler's code, which can change the context that the SDK reads.
        enter_nexus_task(input.ctx)
        try:
            return await super().execute_nexus_operation_start(input)
        except TenantError as error:
            raise _final_error(input.ctx, f"a call of its handler was refused: {error}") from error

    async def execute_nexus_operation_cancel(self, input: ExecuteNexusOperationCancelInput) -> None:
        await self._admit(input.ctx)
        try:
            return await super().execute_nexus_operation_cancel(input)
        except TenantError as error:
            raise _final_error(input.ctx, f"a call of its handler was refused: {error}") from error

    async def _admit(self, context: nexusrpc.handler.OperationContext) -> None:
        """Act for the tenant of the operation, if it may run here."""
        info = nexus.info()
        try:
            tenant = self._codec.read_nexus_headers(context.headers)
        except TenantMismatchError as error:
            raise _final_error(context, str(error)) from error
        refusal = self._check.unserved(tenant, info.task_queue) or await self._check.refusal(
            # Not a start: the calling workflow was admitted when it began.
            tenant,
            namespace=info.namespace,
            task_queue=info.task_queue,
            is_start=False,
        )
        if refusal is not None and refusal.is_final:
            raise _final_error(context, refusal.problem)
        if refusal is not None:
            raise nexusrpc.HandlerError(
                f"operation {context.operation!r} refused: {refusal.problem}",
                type=nexusrpc.HandlerErrorType.UNAVAILABLE,
                retryable_override=True,
            )
        act_for(tenant)
        if tenant is not None and self._bind is not None:
            # `nexus.client()` stays the tenant's, also where code leaves its context (B8).
            temporal = nexus_context()
            temporal.client = self._bind(temporal.client, tenant)


def _final_error(context: nexusrpc.handler.OperationContext, problem: str) -> nexusrpc.HandlerError:
    """The error that ends an operation, which would otherwise be tried again until its time-out."""
    return nexusrpc.HandlerError(
        f"operation {context.operation!r} refused: {problem}",
        type=nexusrpc.HandlerErrorType.UNAUTHORIZED,
        retryable_override=False,
    )
