"""The guard that every RPC of a tenant's client passes.

Interceptors stamp the tenant into calls; the guard verifies requests, field by field, whoever made
them. Its table lists what is allowed, and everything else is refused.
"""

from orkestra.temporal.guard.guarded_client import (
    GuardedServiceClient,
    GuardPolicy,
    unguarded_client,
    unguarded_service,
)
from orkestra.temporal.guard.ownership import OwnershipCache, OwnershipLookup

__all__ = [
    "GuardPolicy",
    "GuardedServiceClient",
    "OwnershipCache",
    "OwnershipLookup",
    "unguarded_client",
    "unguarded_service",
]
