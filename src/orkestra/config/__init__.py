"""Configuration: `OrkestraConfig` and its sections."""

from orkestra.config.model import (
    ApiKeyProvider,
    CertificateSource,
    DeploymentSettings,
    LangfuseProject,
    LangfuseSettings,
    OrkestraConfig,
    PollerSettings,
    ProxySettings,
    SandboxSettings,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
    TlsSettings,
    TunerSettings,
    WorkerSettings,
)

__all__ = [
    "ApiKeyProvider",
    "CertificateSource",
    "DeploymentSettings",
    "LangfuseProject",
    "LangfuseSettings",
    "OrkestraConfig",
    "PollerSettings",
    "ProxySettings",
    "SandboxSettings",
    "TemporalSettings",
    "TenancySettings",
    "TenantSettings",
    "TlsSettings",
    "TunerSettings",
    "WorkerSettings",
]
