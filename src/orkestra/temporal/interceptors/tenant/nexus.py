"""The Nexus handler's side: the caller's tenant is the tenant of the code that runs."""

from typing import Any

import nexusrpc
import nexusrpc.handler
from temporalio import nexus
from temporalio.nexus._operation_context import (
    _temporal_context,  # pyright: ignore[reportPrivateUsage] - the SDK has no other place for it
)
from temporalio.worker import (
    ExecuteNexusOperationCancelInput,
    ExecuteNexusOperationStartInput,
    NexusOperationInboundInterceptor,
)

from orkestra.errors import TenantError
from orkestra.temporal.interceptors.tenant.activity import BindClient
from orkestra.temporal.interceptors.tenant.arrivals import Arrivals
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.temporal.nexus_task import enter_nexus_task
from orkestra.tenancy import act_for, is_tenant_id


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
            context = _temporal_context()
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
