"""The tenant directory: the tenants, their status, and their namespaces and task queues."""

from orkestra.directory.cache import CachedTenantDirectory
from orkestra.directory.placement import Place, Placement, Placements, TenantLabels
from orkestra.directory.source import (
    CallableTenantDirectory,
    OpenTenantDirectory,
    StaticTenantDirectory,
    TenantDirectory,
    TenantRecord,
    TenantStatus,
)

__all__ = [
    "CachedTenantDirectory",
    "CallableTenantDirectory",
    "OpenTenantDirectory",
    "Place",
    "Placement",
    "Placements",
    "StaticTenantDirectory",
    "TenantDirectory",
    "TenantLabels",
    "TenantRecord",
    "TenantStatus",
]
