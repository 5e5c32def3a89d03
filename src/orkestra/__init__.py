"""Orkestra: multi-tenant and observable Temporal, on the ordinary `temporalio` SDK.

A public name is imported when it is first used: workflow code that needs `current_tenant` does not
wait for the clients and workers. Type checkers and editors read the same names in `__init__.pyi`; a
test compares the two lists.
"""

_NAMES_BY_MODULE = {
    "orkestra.config": """
        CertificateSource DeploymentSettings LangfuseProject LangfuseSettings OrkestraConfig
        PollerSettings SandboxSettings TemporalSettings TenancySettings TenantSettings TlsSettings
        TunerSettings WorkerSettings
    """,
    "orkestra.directory": """
        CachedTenantDirectory CallableTenantDirectory StaticTenantDirectory TenantDirectory
        TenantRecord TenantStatus
    """,
    "orkestra.errors": """
        ConfigurationError ConnectionClosedError ConnectionFailedError ConnectionFailureReason
        ConnectionOverloadedError DevServerError DirectoryUnavailableError DiscoveryError
        ExecutionNotFoundError ForbiddenOperationError InvalidIdError InvalidQueryError
        InvalidTenantError InvalidTraceAttributeError LangfuseUnavailableError MissingExtraError
        OrkestraError SearchAttributeError TenantError TenantMismatchError TenantRequiredError
        TenantSuspendedError UnknownTenantError WorkersRunningError
    """,
    "orkestra.temporal.admin": "Unowned find_unowned resume_schedules suspend_schedules",
    "orkestra.temporal.backfill": "BackfillReport backfill_trace backfill_traces",
    "orkestra.temporal.client": "create_temporal_client start_workflow",
    "orkestra.temporal.health": "HealthReport check_temporal_health",
    "orkestra.temporal.logs": "TaskContextFilter configure_logging",
    "orkestra.temporal.manager": "TemporalConnectionManager",
    "orkestra.temporal.plugin": "OrkestraPlugin",
    "orkestra.temporal.run_worker": "WorkerExit run_worker",
    "orkestra.temporal.search_attributes": "ensure_search_attributes",
    "orkestra.temporal.tenant": "TenantInterceptor TenantWorkerInterceptor",
    "orkestra.temporal.tracing": "TracingInterceptor",
    "orkestra.temporal.worker": "create_worker create_workers",
    "orkestra.tenancy": "ALL_TENANTS current_tenant tenant_scope",
    "orkestra.tracing": "trace_attributes",
}

_MODULE_OF = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

# Linters want literals here; type checkers find them in the stub.
__all__ = [*sorted(_MODULE_OF)]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importlib.import_module() would load a second copy inside the workflow sandbox.
    value: object = getattr(__import__(_MODULE_OF[name], fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
