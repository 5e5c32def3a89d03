"""What a tenant may use beyond its own IDs, decided outside the gate."""

from dataclasses import dataclass
from typing import Final, Protocol

from orkestra.temporal.nexus_task import NexusTask

NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first."""


class Grants(Protocol):
    """Answers the gate's questions about a tenant; asked during calls, so it must not block."""

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """Whether the tenant may name this task queue."""
        ...

    def fairness_weight(self, tenant: str) -> float | None:
        """The weight that the tenant's tasks carry; None means that they carry none."""
        ...

    def highest_priority(self, tenant: str) -> int:
        """The smallest priority key, so the most urgent one, that the tenant may set."""
        ...

    def nexus_task(self) -> NexusTask | None:
        """The Nexus task that the running code handles; None outside of one."""
        ...


@dataclass(frozen=True, slots=True)
class SharedQueues:
    """Grants without a directory: any task queue, no weight, normal priority, no Nexus task."""

    def queue_allowed(self, tenant: str, queue: str) -> bool:
        """See base class."""
        return bool(tenant and queue)

    def fairness_weight(self, tenant: str) -> float | None:
        """See base class."""
        return None

    def highest_priority(self, tenant: str) -> int:
        """See base class."""
        return NORMAL_PRIORITY

    def nexus_task(self) -> NexusTask | None:
        """See base class."""
        return None


SHARED_QUEUES: Final = SharedQueues()
"""The grants of a guard that is given none."""
