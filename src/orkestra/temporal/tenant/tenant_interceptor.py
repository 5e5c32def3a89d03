"""The tenant interceptor: what a client and what a worker install."""

from collections.abc import Callable, Collection
from functools import partial

from temporalio import client, worker

from orkestra.config import TenancySettings
from orkestra.directory import Placements, TenantLabels
from orkestra.temporal.guard import OwnershipLookup
from orkestra.temporal.tenant.activity_calls import (
    BindClient,
    TenantActivityInbound,
    TenantNexusInbound,
)
from orkestra.temporal.tenant.admission import PlacementCheck
from orkestra.temporal.tenant.client_calls import OnRefusal, TenantClientOutbound
from orkestra.temporal.tenant.run_commands import TenantRunHook
from orkestra.temporal.tenant.stamp import TenantCodec
from orkestra.temporal.tenant.workflow_calls import TenantWorkflowInbound
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
        placements: Placements | None = None,
        namespace: str | None = None,
        labels: TenantLabels | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """Act for one tenant, for all, or for the tenant of the running code.

        Args:
            settings: Names and mode; None means the defaults.
            tenant: The tenant that the client is bound to; None means `current_tenant()`.
            placements: Asked before each start; None lets every tenant start work, anywhere.
            namespace: Namespace of the client; None compares it with nothing.
            labels: Metric labels; None names no tenants.
            on_refusal: Called with each call that is refused here, and why.
        """
        self._codec = TenantCodec(settings or TenancySettings(), labels or TenantLabels())
        self._on_refusal = on_refusal
        self._tenant = tenant
        self._placements = placements or Placements()
        self._namespace = namespace

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        """See base class."""
        return TenantClientOutbound(
            next, self._codec, self._tenant, self._placements, self._namespace, self._on_refusal
        )


class TenantWorkerInterceptor(client.Interceptor, worker.Interceptor):
    """Worker side: checks what arrives. The first interceptor of a worker.

    Also a client interceptor that does nothing: a worker takes the interceptors of its client
    before its own, so this one comes first on the worker by being first on the client.
    """

    def __init__(
        self,
        settings: TenancySettings | None = None,
        *,
        placements: Placements | None = None,
        tenants: Collection[str] | None = None,
        bind: BindClient | None = None,
        labels: TenantLabels | None = None,
    ) -> None:
        """Check by the settings and the directory.

        Args:
            settings: Names and mode; None means the defaults.
            placements: The directory's answers; None admits every tenant, anywhere.
            tenants: The tenants to serve, on queues that are theirs alone; None means all.
            bind: Makes the client that an activity's code may ask for; None leaves the worker's.
            labels: Metric labels; None names no tenants.
        """
        self._bind_client = bind
        self._codec = TenantCodec(settings or TenancySettings(), labels or TenantLabels())
        self._check = PlacementCheck(placements or Placements(), tenants)
        self._workflow_class = type(
            "TenantWorkflowInbound", (TenantWorkflowInbound,), {"codec": self._codec}
        )

    def intercept_activity(
        self, next: worker.ActivityInboundInterceptor
    ) -> worker.ActivityInboundInterceptor:
        """See base class."""
        return TenantActivityInbound(next, self._codec, self._check, self._bind_client)

    def intercept_nexus_operation(
        self, next: worker.NexusOperationInboundInterceptor
    ) -> worker.NexusOperationInboundInterceptor:
        """See base class."""
        return TenantNexusInbound(next, self._codec, self._check, self._bind_client)

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """See base class."""
        return self._workflow_class

    def hook_factory(
        self, ownership: OwnershipLookup | None
    ) -> Callable[[worker.WorkflowInstanceDetails], TenantRunHook]:
        """Factory of the hooks around a worker's runs.

        Args:
            ownership: Finds the tenant of a workflow whose ID does not name it; None asks nothing.
        """
        return partial(TenantRunHook, self._codec, check=self._check, ownership=ownership)

    def replay_hook(self, details: worker.WorkflowInstanceDetails) -> TenantRunHook:
        """The hook of a replayed run, which asks nothing."""
        return TenantRunHook(self._codec, details)
