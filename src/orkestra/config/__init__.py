"""Configuration: `OrkestraConfig` and its sections."""

from orkestra.config.loading import OrkestraConfig
from orkestra.config.settings import (
    CertificateSource,
    LangfuseSettings,
    SandboxSettings,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
    TlsSettings,
    WorkerSettings,
)

__all__ = [
    "CertificateSource",
    "LangfuseSettings",
    "OrkestraConfig",
    "SandboxSettings",
    "TemporalSettings",
    "TenancySettings",
    "TenantSettings",
    "TlsSettings",
    "WorkerSettings",
]
