"""Orkestra: multi-tenant and observable Temporal, on the ordinary `temporalio` SDK.

A name is imported when it is first used, so that code which asks for `current_tenant` alone does
not wait for all the rest. A new name goes to three places here; a test compares them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orkestra.config import (
        CertificateSource,
        DeploymentSettings,
        LangfuseProject,
        LangfuseSettings,
        OrkestraConfig,
        PollerSettings,
        SandboxSettings,
        TemporalSettings,
        TenancySettings,
        TenantSettings,
        TlsSettings,
        TunerSettings,
        WorkerSettings,
    )
    from orkestra.directory import (
        CachedTenantDirectory,
        CallableTenantDirectory,
        StaticTenantDirectory,
        TenantDirectory,
        TenantRecord,
        TenantStatus,
    )
    from orkestra.errors import (
        ConfigurationError,
        ConnectionClosedError,
        ConnectionFailedError,
        ConnectionFailureReason,
        ConnectionOverloadedError,
        DevServerError,
        DirectoryUnavailableError,
        DiscoveryError,
        ExecutionNotFoundError,
        ForbiddenOperationError,
        InvalidIdError,
        InvalidQueryError,
        InvalidTenantError,
        InvalidTraceAttributeError,
        LangfuseUnavailableError,
        MissingExtraError,
        OrkestraError,
        SearchAttributeError,
        TenantError,
        TenantMismatchError,
        TenantRequiredError,
        TenantSuspendedError,
        UnknownTenantError,
        WorkersRunningError,
    )
    from orkestra.temporal.admin import Unowned, find_unowned, resume_schedules, suspend_schedules
    from orkestra.temporal.backfill import BackfillReport, backfill_trace, backfill_traces
    from orkestra.temporal.client import create_temporal_client, start_workflow
    from orkestra.temporal.health import HealthReport, check_temporal_health
    from orkestra.temporal.logs import TaskContextFilter, configure_logging
    from orkestra.temporal.manager import TemporalConnectionManager
    from orkestra.temporal.plugin import OrkestraPlugin
    from orkestra.temporal.run_worker import WorkerExit, run_worker
    from orkestra.temporal.search_attributes import ensure_search_attributes
    from orkestra.temporal.tenant import TenantInterceptor, TenantWorkerInterceptor
    from orkestra.temporal.tracing import TracingInterceptor
    from orkestra.temporal.worker import create_worker, create_workers
    from orkestra.tenancy import ALL_TENANTS, current_tenant, tenant_scope
    from orkestra.tracing import trace_attributes

__all__ = [
    "ALL_TENANTS",
    "BackfillReport",
    "CachedTenantDirectory",
    "CallableTenantDirectory",
    "CertificateSource",
    "ConfigurationError",
    "ConnectionClosedError",
    "ConnectionFailedError",
    "ConnectionFailureReason",
    "ConnectionOverloadedError",
    "DeploymentSettings",
    "DevServerError",
    "DirectoryUnavailableError",
    "DiscoveryError",
    "ExecutionNotFoundError",
    "ForbiddenOperationError",
    "HealthReport",
    "InvalidIdError",
    "InvalidQueryError",
    "InvalidTenantError",
    "InvalidTraceAttributeError",
    "LangfuseProject",
    "LangfuseSettings",
    "LangfuseUnavailableError",
    "MissingExtraError",
    "OrkestraConfig",
    "OrkestraError",
    "OrkestraPlugin",
    "PollerSettings",
    "SandboxSettings",
    "SearchAttributeError",
    "StaticTenantDirectory",
    "TaskContextFilter",
    "TemporalConnectionManager",
    "TemporalSettings",
    "TenancySettings",
    "TenantDirectory",
    "TenantError",
    "TenantInterceptor",
    "TenantMismatchError",
    "TenantRecord",
    "TenantRequiredError",
    "TenantSettings",
    "TenantStatus",
    "TenantSuspendedError",
    "TenantWorkerInterceptor",
    "TlsSettings",
    "TracingInterceptor",
    "TunerSettings",
    "UnknownTenantError",
    "Unowned",
    "WorkerExit",
    "WorkerSettings",
    "WorkersRunningError",
    "backfill_trace",
    "backfill_traces",
    "check_temporal_health",
    "configure_logging",
    "create_temporal_client",
    "create_worker",
    "create_workers",
    "current_tenant",
    "ensure_search_attributes",
    "find_unowned",
    "resume_schedules",
    "run_worker",
    "start_workflow",
    "suspend_schedules",
    "tenant_scope",
    "trace_attributes",
]

_HOMES = {
    "orkestra.config": (
        "CertificateSource",
        "DeploymentSettings",
        "LangfuseProject",
        "LangfuseSettings",
        "OrkestraConfig",
        "PollerSettings",
        "SandboxSettings",
        "TemporalSettings",
        "TenancySettings",
        "TenantSettings",
        "TlsSettings",
        "TunerSettings",
        "WorkerSettings",
    ),
    "orkestra.directory": (
        "CachedTenantDirectory",
        "CallableTenantDirectory",
        "StaticTenantDirectory",
        "TenantDirectory",
        "TenantRecord",
        "TenantStatus",
    ),
    "orkestra.errors": (
        "ConfigurationError",
        "ConnectionClosedError",
        "ConnectionFailedError",
        "ConnectionFailureReason",
        "ConnectionOverloadedError",
        "DevServerError",
        "DirectoryUnavailableError",
        "DiscoveryError",
        "ExecutionNotFoundError",
        "ForbiddenOperationError",
        "InvalidIdError",
        "InvalidQueryError",
        "InvalidTenantError",
        "InvalidTraceAttributeError",
        "LangfuseUnavailableError",
        "MissingExtraError",
        "OrkestraError",
        "SearchAttributeError",
        "TenantError",
        "TenantMismatchError",
        "TenantRequiredError",
        "TenantSuspendedError",
        "UnknownTenantError",
        "WorkersRunningError",
    ),
    "orkestra.temporal.client": (
        "create_temporal_client",
        "start_workflow",
    ),
    "orkestra.temporal.health": (
        "HealthReport",
        "check_temporal_health",
    ),
    "orkestra.temporal.backfill": (
        "BackfillReport",
        "backfill_trace",
        "backfill_traces",
    ),
    "orkestra.temporal.tenant": (
        "TenantInterceptor",
        "TenantWorkerInterceptor",
    ),
    "orkestra.temporal.tracing": ("TracingInterceptor",),
    "orkestra.temporal.run_worker": (
        "WorkerExit",
        "run_worker",
    ),
    "orkestra.temporal.logs": (
        "TaskContextFilter",
        "configure_logging",
    ),
    "orkestra.temporal.manager": ("TemporalConnectionManager",),
    "orkestra.temporal.plugin": ("OrkestraPlugin",),
    "orkestra.temporal.search_attributes": ("ensure_search_attributes",),
    "orkestra.temporal.admin": (
        "Unowned",
        "find_unowned",
        "resume_schedules",
        "suspend_schedules",
    ),
    "orkestra.temporal.worker": (
        "create_worker",
        "create_workers",
    ),
    "orkestra.tenancy": (
        "ALL_TENANTS",
        "current_tenant",
        "tenant_scope",
    ),
    "orkestra.tracing": ("trace_attributes",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            # Not importlib's, which would load a second copy inside the workflow sandbox.
            value: object = getattr(__import__(module, fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
