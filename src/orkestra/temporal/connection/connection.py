"""`Connection`: who uses a connection, and closing it."""

import weakref
from collections.abc import Generator
from contextlib import contextmanager

from temporalio.service import ServiceClient

from orkestra.errors import WorkersRunningError
from orkestra.temporal.connection.service_client import ManagedServiceClient
from orkestra.temporal.connection.wire import Wire


class Connection:
    """One connection to the Temporal service, which any number of clients share.

    It stays open until `close()`, or until nobody holds it or a client on it any more. Where the
    service goes away for a while, the SDK reconnects by itself. Any event loop may use it; a
    process that was forked may not, and is told so.

    Attributes:
        service_client: Make clients on it: `Client(connection.service_client, namespace=…)`.
        address: Where it is connected to, as `host:port`.

    Args:
        sdk_client: The SDK's connected client; the connection takes it over.
        address: Where it is connected to.
    """

    def __init__(self, sdk_client: ServiceClient, *, address: str) -> None:
        self.address = address
        self._wire = Wire(sdk_client, address)
        self._workers: dict[object, str] = {}
        self._owner: weakref.ref[object] | None = None
        self.service_client = ManagedServiceClient(self, self._wire)

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._wire.is_cut

    @property
    def is_private(self) -> bool:
        """Whether no manager is there to close it, so that its last user should."""
        return self._owner is None or self._owner() is None

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that run on it, as `working()` was told."""
        return tuple(self._workers.values())

    def check_usable(self) -> None:
        """Raise what any call would raise.

        Raises:
            ConnectionClosedError: It is closed, or was opened before this process was forked.
        """
        _ = self._wire.sdk_client

    def belongs_to(self, owner: object) -> None:
        """Make it shared: the owner, while it lives, is the one to close it."""
        self._owner = weakref.ref(owner)

    @contextmanager
    def working(self, description: str) -> Generator[None]:
        """Mark that a worker runs in the block, so that `close()` refuses.

        Args:
            description: Names the worker in the refusal.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.check_usable()
        mark = object()
        self._workers[mark] = description
        try:
            yield
        finally:
            del self._workers[mark]

    async def close(self) -> None:
        """Close the socket under everybody who holds clients or handles.

        Calls in flight and all later ones raise `ConnectionClosedError`. It may be called again,
        also at the same time.

        Raises:
            WorkersRunningError: Workers run on it; nothing was closed.
        """
        require_idle(self)
        await self._wire.cut()


def require_idle(*connections: Connection) -> None:
    """Raise if workers run on any of the connections.

    Raises:
        WorkersRunningError: They do; the message names them.
    """
    if workers := [worker for connection in connections for worker in connection.workers]:
        running = ", ".join(workers)
        msg = f"cannot close the connection: workers still run ({running}): shut them down first"
        raise WorkersRunningError(msg)
