"""What the plugin puts into a client: the guard around its calls, and interceptors."""

from temporalio import client
from temporalio.service import ServiceClient

from orkestra.temporal.granting import DirectoryGrants
from orkestra.temporal.guard import GuardedServiceClient
from orkestra.temporal.interceptors.tenant import TenantInterceptor
from orkestra.temporal.plugin.ours import without_ours
from orkestra.temporal.plugin.shared import Shared
from orkestra.temporal.plugin.worker_side import WorkerSide
from orkestra.tenancy import AllTenants


def configure_client(
    config: client.ClientConfig,
    shared: Shared,
    worker_side: WorkerSide,
    *,
    tenant: str | AllTenants | None,
) -> client.ClientConfig:
    """Put everything into the configuration of a client.

    Args:
        config: The configuration, which is changed.
        shared: What the plugin shares.
        worker_side: What workers of the client take from it.
        tenant: The tenant that the client is bound to.

    Raises:
        TenantMismatchError: Its service client is bound to another tenant or namespace.
    """
    namespace = config["namespace"]
    service = guarded(config["service_client"], shared, tenant=tenant, namespace=namespace)
    nearest: list[client.Interceptor] = []
    if shared.has_tenancy:
        nearest.append(
            TenantInterceptor(
                shared.config.tenancy,
                tenant=tenant,
                placements=shared.placements,
                namespace=namespace,
                labels=shared.labels,
                on_refusal=service.count_refused
                if isinstance(service, GuardedServiceClient)
                else None,
            )
        )
    theirs = without_ours(config.get("interceptors", ()))
    config["interceptors"] = [*_farthest(worker_side, tenant), *theirs, *nearest]
    config["service_client"] = service
    return config


def guarded(
    service: ServiceClient, shared: Shared, *, tenant: str | AllTenants | None, namespace: str
) -> ServiceClient:
    """The service client with the guard of a tenant around it.

    Args:
        service: A service client; one that is guarded already is bound anew.
        shared: What the plugin shares.
        tenant: The tenant that the client is bound to.
        namespace: The only namespace that its requests may name.

    Returns:
        The guarded service client; where tenancy is off, the one given.

    Raises:
        TenantMismatchError: It is bound to another tenant or namespace.
    """
    if not shared.has_tenancy:
        return service
    grants = DirectoryGrants(shared.placements, namespace)
    if isinstance(service, GuardedServiceClient):
        return service.rebound(tenant=tenant, namespace=namespace, grants=grants)
    return GuardedServiceClient(
        service,
        tenant=tenant,
        namespace=namespace,
        settings=shared.config.tenancy,
        grants=grants,
        owners=shared.owners,
        labels=shared.labels,
    )


def _farthest(worker_side: WorkerSide, tenant: str | AllTenants | None) -> list[client.Interceptor]:
    """Those of the worker, which takes them from here; a tenant's client can make none."""
    if not isinstance(tenant, str):
        return [*worker_side.interceptors]
    tracing = worker_side.tracing
    return [] if tracing is None else [tracing.for_tenant(tenant)]
