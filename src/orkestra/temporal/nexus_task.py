"""The Nexus task that the running code handles, as it arrived.

The SDK puts these values into requests that the handler makes. They complete and link to the
caller's workflow, so the guard allows no others there. They are copied before the handler's code
runs, because that code can change the SDK's own context.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from nexusrpc.handler import StartOperationContext
from temporalio.api.common.v1 import Link

from orkestra.temporal._sdk import nexus_link_to_temporal_link


@dataclass(frozen=True, slots=True, kw_only=True)
class NexusTask:
    """Values that a start operation arrived with.

    Attributes:
        callback_url: URL that the operation's result goes to.
        callback_headers: Headers of that callback; they name the operation that it completes.
        links: What the caller linked to.
    """

    callback_url: str
    callback_headers: Mapping[str, str]
    links: tuple[Link, ...] = ()


_current: Final[ContextVar[NexusTask | None]] = ContextVar("orkestra_nexus_task", default=None)


def enter_nexus_task(context: StartOperationContext) -> None:
    """Note the task for as long as the running task's context lives."""
    links = map(nexus_link_to_temporal_link, context.inbound_links)
    _current.set(
        NexusTask(
            callback_url=context.callback_url or "",
            callback_headers=dict(context.callback_headers),
            links=tuple(link for link in links if link is not None),
        )
    )


def current_nexus_task() -> NexusTask | None:
    """The Nexus task that the running code handles, or None outside of one."""
    return _current.get()
