"""Configuration: `OrkestraConfig` and its sections."""

from orkestra.config.langfuse import LangfuseProject, LangfuseSettings
from orkestra.config.loading import OrkestraConfig
from orkestra.config.settings import TenancySettings, TenantSettings
from orkestra.config.temporal import (
    ApiKeyProvider,
    CertificateSource,
    ProxySettings,
    TemporalSettings,
    TlsSettings,
)
from orkestra.config.worker import (
    DeploymentSettings,
    PollerSettings,
    SandboxSettings,
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
