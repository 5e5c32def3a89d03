"""The activity's side: the tenant of the caller is the tenant of the code that runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from orkestra.errors import TENANT_MISMATCH, TENANT_REQUIRED, TenantMismatchError
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.temporal.interceptors.tenant.workflow import refusal
from orkestra.tenancy import act_for


class TenantActivityInbound(ActivityInboundInterceptor):
    """Refuses activities without a tenant, or with one that their workflow's ID contradicts."""

    def __init__(self, next: ActivityInboundInterceptor, policy: TenantPolicy) -> None:
        """Check by the policy."""
        super().__init__(next)
        self._policy = policy

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        tenant = self._read(input)
        act_for(tenant)
        if tenant is not None and not isinstance(input.executor, ThreadPoolExecutor | None):
            input.fn = _InAnotherProcess(input.fn, tenant)
        return await super().execute_activity(input)

    def _read(self, input: ExecuteActivityInput) -> str | None:
        info = activity.info()
        try:
            tenant = self._policy.read_header(input.headers)
            if tenant is not None:
                self._policy.check_owner(tenant, info.workflow_id or info.activity_id)
        except TenantMismatchError as error:
            raise self._refuse(TENANT_MISMATCH, str(error)) from error
        if tenant is None and self._policy.is_required:
            problem = f"it was started without header {self._policy.header!r}"
            raise self._refuse(TENANT_REQUIRED, problem)
        return tenant

    def _refuse(self, kind: str, problem: str) -> Exception:
        counter = activity.metric_meter().create_counter(
            "orkestra_refused_activities", "Activities refused for their tenant"
        )
        counter.add(1)
        activity.logger.warning("Refused activity: %s", problem)
        return refusal(kind, f"activity refused: {problem}")


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
