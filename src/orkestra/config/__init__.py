"""Configuration: `OrkestraConfig` and its sections."""

from orkestra.config.loading import OrkestraConfig
from orkestra.config.settings import (
    CertificateSource,
    LangfuseSettings,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
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
    "CertificateSource",
    "DeploymentSettings",
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
]
