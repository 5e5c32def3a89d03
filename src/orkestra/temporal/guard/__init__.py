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
from orkestra.temporal.guard.rules import enter_nexus_task

__all__ = [
    "GuardPolicy",
    "GuardedServiceClient",
    "OwnershipCache",
    "OwnershipLookup",
    "enter_nexus_task",
    "unguarded_client",
    "unguarded_service",
]
