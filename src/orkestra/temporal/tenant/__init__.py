"""The tenant interceptor: carries a tenant over Temporal's calls and checks it on arrival."""

from orkestra.temporal.tenant.tenant_interceptor import TenantInterceptor, TenantWorkerInterceptor

__all__ = ["TenantInterceptor", "TenantWorkerInterceptor"]
