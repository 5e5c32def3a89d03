"""The tenant directory: which tenants exist, whether they may start work, and where they belong."""

from orkestra.directory.cache import CachedTenantDirectory
from orkestra.directory.labels import TenantLabels
from orkestra.directory.placement import Place, Placement, Placements
from orkestra.directory.records import TenantRecord, TenantStatus
from orkestra.directory.sources import (
    CallableTenantDirectory,
    OpenTenantDirectory,
    StaticTenantDirectory,
    TenantDirectory,
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
