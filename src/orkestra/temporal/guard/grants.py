"""What a tenant may use beyond its own IDs, decided outside the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from nexusrpc.handler import StartOperationContext
from temporalio.api.common.v1 import Link
from temporalio.nexus._link_conversion import (  # what the SDK puts into requests itself
    nexus_link_to_temporal_link,
)

NORMAL_PRIORITY: Final = 3
"""The server's default priority key; smaller numbers go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NexusTask:
    """The Nexus task that the running code handles, as it arrived.

    The SDK puts these values into requests that the handler makes. They complete and link to the
    caller's workflow, so nothing else may stand there. Take them before the handler's code runs:
    it can change the SDK's own context.

    Attributes:
        callback_url: Where the operation's result goes.
        callback_headers: Headers of that callback; they say whose operation it completes.
        links: What the caller linked to.
    """

    callback_url: str
    callback_headers: Mapping[str, str]
    links: tuple[Link, ...] = ()

    @classmethod
    def of(cls, context: StartOperationContext) -> Self:
        """Copy what a start operation arrived with.

        Args:
            context: The context that the handler is about to get.
        """
        links = map(nexus_link_to_temporal_link, context.inbound_links)
        return cls(
            callback_url=context.callback_url or "",
            callback_headers=dict(context.callback_headers),
            links=tuple(link for link in links if link is not None),
        )


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
