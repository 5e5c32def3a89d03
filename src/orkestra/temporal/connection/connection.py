"""`Connection`: who uses a connection, and closing it."""

import asyncio
import logging
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from temporalio.service import ServiceClient
from temporalio.worker import Worker

from orkestra.errors import WorkersRunningError
from orkestra.temporal.connection.idle_workers import end_idle_worker, never_started
from orkestra.temporal.connection.load import Load
from orkestra.temporal.connection.rotation import Rotation
from orkestra.temporal.connection.service_client import ManagedServiceClient
from orkestra.temporal.connection.statistics import ConnectionCounters, ConnectionState
from orkestra.temporal.connection.wire import Wire

_logger: Final = logging.getLogger("orkestra.temporal.connection")


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
        load: Says when too many calls wait.
    """

    def __init__(self, sdk_client: ServiceClient, *, address: str, load: Load) -> None:
        self.address = address
        self._load = load
        self._wire = Wire(sdk_client, address, load)
        self._running: dict[object, tuple[str, Worker | None]] = {}
        self._made: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._owner: weakref.ref[object] | None = None
        self._rotation: Rotation | None = None
        self._has_moved = False
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
        return tuple(description for description, _ in self._running.values())

    @property
    def state(self) -> ConnectionState:
        """What is known of it without asking the server."""
        if self.is_closed:
            return ConnectionState.CLOSED
        return ConnectionState.SILENT if self._load.is_silent else ConnectionState.OPEN

    @property
    def counters(self) -> ConnectionCounters:
        """Sums, shared with the other connections of its manager."""
        return self._load.counters

    @property
    def calls_in_flight(self) -> int:
        """Calls under way, long polls included."""
        return self._wire.calls_in_flight

    @property
    def calls_waiting(self) -> int:
        """Calls under way since the service has last answered, without long polls."""
        return self._load.waiting

    def check_usable(self) -> None:
        """Raise what any call would raise.

        Raises:
            ConnectionClosedError: It is closed, or was opened before this process was forked.
        """
        _ = self._wire.sdk_client

    def belongs_to(self, owner: object) -> None:
        """Make it shared: the owner, while it lives, is the one to close it."""
        self._owner = weakref.ref(owner)

    def renew_by(self, rotation: Rotation) -> None:
        """Have changed credentials taken up."""
        self._rotation = rotation
        self.service_client.rotation = rotation

    def change_api_key(self, api_key: str | None) -> None:
        """Use another API key for all calls and workers from now on.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.service_client.update_api_key(api_key)
        self.service_client.config.api_key = api_key

    def take_over(self, fresh: "Connection") -> None:
        """Go on over the socket of another connection, with all clients, handles and workers.

        Calls under way end on the old socket, which is closed then. A worker's very first socket
        stays, unused, until the server or the worker ends it: the SDK keeps it.

        Args:
            fresh: A connection that nobody uses; it is closed by this.

        Raises:
            ConnectionClosedError: One of both is closed already.
        """
        self._wire.take_over(fresh._wire)  # noqa: SLF001 - another one of us
        self.service_client.config = fresh.service_client.config
        self._has_moved = True
        running = {worker for _, worker in self._running.values() if worker is not None}
        for worker in running | {each for each in self._made if never_started(each)}:
            _move(worker)

    def made(self, worker: Worker) -> None:
        """Remember a worker until it runs, because it holds the socket without running, too."""
        self._made.add(worker)

    @contextmanager
    def working(self, description: str, worker: Worker | None = None) -> Generator[None]:
        """Mark that a worker runs in the block, so that `close()` refuses.

        Args:
            description: Names the worker in the refusal.
            worker: The worker, which is to follow where the connection moves to.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.check_usable()
        if worker is not None and self._has_moved:
            _move(worker)
        mark = object()
        self._running[mark] = (description, worker)
        looking = None
        if self._rotation is not None:
            looking = asyncio.create_task(self._rotation.keep_looking())
        try:
            yield
        finally:
            del self._running[mark]
            if looking is not None:
                looking.cancel()

    async def close(self) -> None:
        """Close the socket under everybody who holds clients, handles or workers that do not run.

        Calls in flight and all later ones raise `ConnectionClosedError`. It may be called again,
        also at the same time.

        Raises:
            WorkersRunningError: Workers run on it; nothing was closed.
        """
        require_idle(self)
        await self._wire.cut()
        while self._made:
            await end_idle_worker(self._made.pop())


def require_idle(*connections: Connection) -> None:
    """Raise if workers run on any of the connections.

    Raises:
        WorkersRunningError: They do; the message names them.
    """
    if workers := [worker for connection in connections for worker in connection.workers]:
        running = ", ".join(workers)
        msg = f"cannot close the connection: workers still run ({running}): shut them down first"
        raise WorkersRunningError(msg)


def _move(worker: Worker) -> None:
    """Have the worker take the core's client anew from the service client that it has."""
    if worker.is_shutdown:
        return
    try:
        worker.client = worker.client
    except ValueError as error:  # of the core; it goes on over the old socket
        _logger.warning("The worker of %r stays on its socket: %s", worker.task_queue, error)
