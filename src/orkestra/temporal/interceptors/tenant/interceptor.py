"""The two ends of the tenant interceptor."""

from temporalio import client, worker

from orkestra.config import TenancySettings
from orkestra.temporal.interceptors.tenant.activity import TenantActivityInbound
from orkestra.temporal.interceptors.tenant.commands import TenantRunHook
from orkestra.temporal.interceptors.tenant.nexus import TenantNexusInbound
from orkestra.temporal.interceptors.tenant.outbound import TenantClientOutbound
from orkestra.temporal.interceptors.tenant.policy import TenantPolicy
from orkestra.temporal.interceptors.tenant.workflow import TenantWorkflowInbound
from orkestra.tenancy import AllTenants


class TenantInterceptor(client.Interceptor):
    """Client side: stamps and scopes every call. The last interceptor of a client.

    It is not a worker interceptor, although the SDK would take one for both: on a client it must
    be the last, on a worker the first.
    """

    def __init__(
        self,
        settings: TenancySettings | None = None,
        *,
        tenant: str | AllTenants | None = None,
    ) -> None:
        """Act for one tenant, for all, or for the tenant of the running code.

        Args:
            settings: Names and mode; None means the defaults.
            tenant: The tenant that the client is bound to; None means `current_tenant()`.
        """
        self.policy = TenantPolicy(settings or TenancySettings())
        self.tenant = tenant

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        """See base class."""
        return TenantClientOutbound(next, self.policy, self.tenant)


class TenantWorkerInterceptor(client.Interceptor, worker.Interceptor):
    """Worker side: checks what arrives. The first interceptor of a worker.

    Also a client interceptor that does nothing: a worker takes the interceptors of its client
    before its own, so this one comes first on the worker by being first on the client.
    """

    def __init__(self, settings: TenancySettings | None = None) -> None:
        """Check by the settings; None means the defaults."""
        self.policy = TenantPolicy(settings or TenancySettings())
        self._workflow_class = type(
            "TenantWorkflowInbound", (TenantWorkflowInbound,), {"policy": self.policy}
        )

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        """See base class."""
        return TenantActivityInbound(next, self.policy)

    def intercept_nexus_operation(
        self, next: worker.NexusOperationInboundInterceptor
    ) -> worker.NexusOperationInboundInterceptor:
        """See base class."""
        return TenantNexusInbound(next, self.policy)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        return self._workflow_class

    def run_hook(self, details: worker.WorkflowInstanceDetails) -> TenantRunHook:
        """Make the hook that sees a run's commands; a factory for the runner's wrapper."""
        return TenantRunHook(self.policy, details)
