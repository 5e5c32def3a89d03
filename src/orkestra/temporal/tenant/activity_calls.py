"""The activity's side: the tenant of the caller is the tenant of the code that runs.

The Nexus handler's side: the caller's tenant is the tenant of the code that runs.
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
from orkestra.temporal.nexus_task import enter_nexus_task
from orkestra.temporal.tenant.admission import Arrivals, Verdict, count_misplaced, count_untenanted
from orkestra.temporal.tenant.stamp import TenantPolicy
from orkestra.tenancy import act_for, is_tenant_id

BindClient: TypeAlias = Callable[[Client, str], Client]
"""Makes a client of a tenant from one that serves all."""


class TenantActivityInbound(ActivityInboundInterceptor):
    """Refuses activities without a tenant, with a contradicted one, or in another's place."""

    def __init__(
        self,
        next: ActivityInboundInterceptor,
        policy: TenantPolicy,
        arrivals: Arrivals,
        bind: BindClient | None,
    ) -> None:
        """Check by the policy and the directory, and bind the client that the code may ask for."""
        super().__init__(next)
        self._policy = policy
        self._arrivals = arrivals
        self._bind = bind

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        tenant = self._read(input)
        await self._check_place(tenant)
        act_for(tenant)
        self._bind_client(tenant)
        if tenant is not None and not isinstance(input.executor, ThreadPoolExecutor | None):
            input.fn = _InAnotherProcess(input.fn, tenant)
        return await super().execute_activity(input)

    def _bind_client(self, tenant: str | None) -> None:
        """Make `activity.client()` the tenant's for good, also where code leaves its context."""
        context = activity_context()
        if tenant is not None and self._bind is not None and context.client is not None:
            context.client = self._bind(context.client, tenant)

    def _read(self, input: ExecuteActivityInput) -> str | None:
        info = activity.info()
        try:
            tenant = self._policy.read_header(input.headers)
            if tenant is not None:
                self._policy.check_owner(tenant, info.workflow_id or info.activity_id)
        except TenantMismatchError as error:
            raise self._refuse(Verdict(TENANT_MISMATCH, str(error)), None) from error
        if tenant is None and self._policy.is_required:
            problem = f"it was started without header {self._policy.header!r}"
            raise self._refuse(Verdict(TENANT_REQUIRED, problem), None)
        if tenant is None:
            count_untenanted(activity.metric_meter(), "activity")
        return tenant

    async def _check_place(self, tenant: str | None) -> None:
        """Local activities were let in with their workflow, and never leave its worker."""
        info = activity.info()
        if info.is_local:
            return
        verdict = await self._arrivals.verdict(
            tenant,
            namespace=info.namespace,
            task_queue=info.task_queue,
            is_start=info.workflow_id is None,
        )
        if verdict is None:
            return
        if self._arrivals.is_misplaced(tenant):
            count_misplaced(activity.metric_meter(), self._policy.labels.of(tenant))
            activity.logger.error("%s", verdict.problem)
        raise self._refuse(verdict, tenant)

    def _refuse(self, verdict: Verdict, tenant: str | None) -> ApplicationError:
        counter = activity.metric_meter().create_counter(
            "orkestra_refused_activities", "Activities refused for their tenant"
        )
        counter.add(1, {"kind": verdict.kind} | self._policy.labels.of(tenant))
        activity.logger.warning("Refused activity: %s", verdict.problem)
        message = f"activity refused: {verdict.problem}"
        return ApplicationError(message, type=verdict.kind, non_retryable=verdict.is_final)


@dataclass(frozen=True)
class _InAnotherProcess:
    """An activity function that a pool's process runs for its tenant.

    Context variables do not cross processes; a forked child even keeps the tenant that was current
    when the pool started.
    """

    fn: Callable[..., Any]
    tenant: str

    def __call__(self, *args: Any) -> Any:
        act_for(self.tenant)
        try:
            return self.fn(*args)
        finally:
            act_for(None)


class TenantNexusInbound(NexusOperationInboundInterceptor):
    """Refuses operations without a tenant, or in another's place.

    Nexus headers arrive in lower case.
    """

    def __init__(
        self,
        next: NexusOperationInboundInterceptor,
        policy: TenantPolicy,
        arrivals: Arrivals,
        bind: BindClient | None,
    ) -> None:
        """Check by the policy and the directory, and bind the client that the code may ask for."""
        super().__init__(next)
        self._policy = policy
        self._arrivals = arrivals
        self._bind = bind

    async def execute_nexus_operation_start(
        self, input: ExecuteNexusOperationStartInput
    ) -> (
        nexusrpc.handler.StartOperationResultSync[Any] | nexusrpc.handler.StartOperationResultAsync
    ):
        """See base class."""
        self._act_for(await self._admit(input.ctx))
        enter_nexus_task(input.ctx)
        try:
            return await super().execute_nexus_operation_start(input)
        except TenantError as error:
            raise _final(input.ctx, error) from error

    async def execute_nexus_operation_cancel(self, input: ExecuteNexusOperationCancelInput) -> None:
        """See base class."""
        self._act_for(await self._admit(input.ctx))
        try:
            return await super().execute_nexus_operation_cancel(input)
        except TenantError as error:
            raise _final(input.ctx, error) from error

    def _act_for(self, tenant: str | None) -> None:
        """Make `nexus.client()` the tenant's for good, also where code leaves its context."""
        act_for(tenant)
        if tenant is not None and self._bind is not None:
            context = nexus_context()
            context.client = self._bind(context.client, tenant)

    async def _admit(self, context: nexusrpc.handler.OperationContext) -> str | None:
        tenant, info = self._read(context), nexus.info()
        verdict = await self._arrivals.verdict(
            tenant, namespace=info.namespace, task_queue=info.task_queue, is_start=False
        )
        if verdict is None:
            return tenant
        kinds = nexusrpc.HandlerErrorType
        raise nexusrpc.HandlerError(
            f"operation {context.operation!r} refused: {verdict.problem}",
            type=kinds.UNAUTHORIZED if verdict.is_final else kinds.UNAVAILABLE,
            retryable_override=not verdict.is_final,
        )

    def _read(self, context: nexusrpc.handler.OperationContext) -> str | None:
        name = self._policy.header.lower()
        found = {value for key, value in context.headers.items() if key.lower() == name}
        if not found and not self._policy.is_required:
            return None
        if len(found) == 1 and is_tenant_id(tenant := found.pop()):
            return tenant
        problem = f"it must carry one header {name!r} with a tenant ID"
        raise nexusrpc.HandlerError(
            f"operation {context.operation!r} refused: {problem}",
            type=nexusrpc.HandlerErrorType.UNAUTHORIZED,
            retryable_override=False,
        )


def _final(context: nexusrpc.handler.OperationContext, error: TenantError) -> nexusrpc.HandlerError:
    """What the code was refused ends the operation, which would else be tried until its end."""
    return nexusrpc.HandlerError(
        f"operation {context.operation!r} was refused a call: {error}",
        type=nexusrpc.HandlerErrorType.UNAUTHORIZED,
        retryable_override=False,
    )
