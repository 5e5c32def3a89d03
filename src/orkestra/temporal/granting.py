"""What the directory grants a tenant, in the guard's words."""

from orkestra.directory import Placement, Placements
from orkestra.errors import TenantMismatchError
from orkestra.temporal.guard import NORMAL_PRIORITY
from orkestra.temporal.nexus_task import NexusTask, current_nexus_task


class DirectoryGrants:
    """Answers from what the directory has said of the tenant; asks it nothing.

    The interceptors ask it before each start. A raw request for a tenant that nobody has asked for
    yet is granted no queue.

    Args:
        placements: Where tenants belong.
        namespace: Namespace of the guarded client.
    """

    def __init__(self, placements: Placements, namespace: str) -> None:
        self._placements = placements
        self._namespace = namespace

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """See base class."""
        placement = self._placement(tenant)
        try:
            return placement is not None and queue == placement.queue(
                queue, namespace=self._namespace
            )
        except TenantMismatchError:
            return False

    def fairness_weight(self, tenant: str) -> float | None:
        """See base class."""
        placement = self._placement(tenant)
        return None if placement is None else placement.record.fairness_weight

    def highest_priority(self, tenant: str) -> int:
        """See base class."""
        placement = self._placement(tenant)
        return NORMAL_PRIORITY if placement is None else placement.record.most_urgent_priority

    def nexus_task(self) -> NexusTask | None:
        """See base class."""
        return current_nexus_task()

    def _placement(self, tenant: str) -> Placement | None:
        return self._placements.last_known(tenant)
