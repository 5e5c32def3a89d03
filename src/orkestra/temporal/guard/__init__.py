"""The gate that every RPC of a tenant's client passes.

Interceptors write the tenant into calls; the gate verifies requests, field by field, whoever made
them. Its table lists what is permitted, and everything else is refused.
"""

from orkestra.temporal.guard.guarded_client import (
    GuardedServiceClient,
    unguarded_client,
    unguarded_service,
)
from orkestra.temporal.guard.ownership import OwnerMemory, Owners
from orkestra.temporal.guard.rules import NORMAL_PRIORITY, SHARED_QUEUES, Grants, SharedQueues
from orkestra.temporal.nexus_task import NexusTask

__all__ = [
    "NORMAL_PRIORITY",
    "SHARED_QUEUES",
    "Grants",
    "GuardedServiceClient",
    "NexusTask",
    "OwnerMemory",
    "Owners",
    "SharedQueues",
    "unguarded_client",
    "unguarded_service",
]
