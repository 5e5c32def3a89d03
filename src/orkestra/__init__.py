"""Orkestra: multi-tenant and observable Temporal, on the ordinary `temporalio` SDK."""

from orkestra.config import (
    CertificateSource,
    DeploymentSettings,
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
    DevServerError,
    DirectoryUnavailableError,
    DiscoveryError,
    ExecutionNotFoundError,
    ForbiddenOperationError,
    InvalidIdError,
    InvalidQueryError,
    InvalidTenantError,
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
from orkestra.temporal.client import create_temporal_client, start_workflow
from orkestra.temporal.health import HealthReport, check_temporal_health
from orkestra.temporal.interceptors.tenant import TenantInterceptor, TenantWorkerInterceptor
from orkestra.temporal.interceptors.tracing import TracingInterceptor
from orkestra.temporal.lifecycle import WorkerExit, run_worker
from orkestra.temporal.logs import TaskContextFilter, configure_logging
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.search_attributes import ensure_search_attributes
from orkestra.temporal.suspension import resume_schedules, suspend_schedules
from orkestra.temporal.unowned import Unowned, find_unowned
from orkestra.temporal.worker import create_worker, create_workers
from orkestra.tenancy import ALL_TENANTS, current_tenant, tenant_scope
from orkestra.tracing import trace_attributes

__all__ = [
    "ALL_TENANTS",
    "CachedTenantDirectory",
    "CallableTenantDirectory",
    "CertificateSource",
    "ConfigurationError",
    "ConnectionClosedError",
    "ConnectionFailedError",
    "ConnectionFailureReason",
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
