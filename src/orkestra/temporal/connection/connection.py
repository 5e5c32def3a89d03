"""One connection to Temporal, shared by many clients and closed under all of them.

The SDK has no way to close a connection. It closes the socket when the last reference to its client
is gone, and clients, handles, calls in flight and even the traceback of a failed call are such
references. So only a `Channel` keeps one: `ManagedServiceClient`, which clients and workers get,
borrows it for each call, and `close()` cancels the calls and releases it.

When the service does not answer, calls would pile up until each has exhausted its retries.
`Backpressure` counts those that wait and refuses more.
"""

import asyncio
import logging
import os
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.service import ConnectConfig, RPCError, RPCStatusCode, ServiceClient
from temporalio.worker import Worker

from orkestra.errors import ConnectionClosedError, ConnectionOverloadedError, WorkersRunningError
from orkestra.temporal._sdk import (
    BridgeServiceClient,
    CallOptions,
    WorkerServiceClient,
    end_unstarted_worker,
    release_core_client,
    rpc_call_of,
)

if TYPE_CHECKING:
    from orkestra.temporal.connection.config import CredentialRotation

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_Response = TypeVar("_Response", bound=Message)

NO_ANSWER: Final = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNKNOWN,
    }
)
"""Statuses that the SDK gives to network failures; the service itself may send them, too."""

# Long polls that consume nothing, and so may be repeated.
_REPEATABLE_POLLS: Final = frozenset(
    {
        "poll_workflow_execution_update",
        "poll_activity_execution",
        "poll_nexus_operation_execution",
    }
)
_CANCELLATION_SECONDS: Final = 1.0
_CANCELLATION_CHECK_SECONDS: Final = 0.001
_CORE_TIMEOUT: Final = timedelta(seconds=1)


class ConnectionState(StrEnum):
    """State of a connection as far as it is known without an RPC."""

    UNOPENED = "unopened"
    """No client has needed it yet, or opening it has failed."""

    OPEN = "open"
    """Calls are answered, or there are none."""

    SILENT = "silent"
    """Calls wait, and none was answered for half of `temporal.call_retry_deadline`."""

    CLOSED = "closed"
    """It was closed."""


@dataclass(slots=True)
class ConnectionCounters:
    """Sums over all connections that share them; they only grow.

    Attributes:
        attempts: Attempts to open a connection, rotations included.
        failed_attempts: Attempts that failed.
        calls: Calls that were sent, without long polls.
        failed_calls: Calls that the service left without an answer, after the SDK's retries.
        refused_calls: Calls that were not sent, because too many waited.
        rotations: Changed credentials that are in use.
        failed_rotations: Changed credentials that could not be used; the old ones stay in use.
    """

    attempts: int = 0
    failed_attempts: int = 0
    calls: int = 0
    failed_calls: int = 0
    refused_calls: int = 0
    rotations: int = 0
    failed_rotations: int = 0


@dataclass(frozen=True, kw_only=True)
class ConnectionStatistics:
    """Snapshot of a manager's connections; see `ConnectionCounters` for the sums.

    Attributes:
        state: The worst of all shared connections.
        connections: Number of open ones, dedicated ones included.
        calls_in_flight: Calls under way, long polls included.
        calls_waiting: Calls under way since the service has last answered, without long polls.
        workers: Workers that run on the connections.
    """

    state: ConnectionState
    connections: int
    calls_in_flight: int
    calls_waiting: int
    workers: int
    attempts: int
    failed_attempts: int
    calls: int
    failed_calls: int
    refused_calls: int
    rotations: int
    failed_rotations: int


class Connection:
    """One connection to the Temporal service, which any number of clients share.

    It stays open until `close()`, or until no client on it is referenced any more. Where the
    service goes away for a while, the SDK reconnects by itself. Any event loop may use it; a forked
    process may not, and gets an error.

    Attributes:
        service_client: Make clients on it: `Client(connection.service_client, namespace=…)`.
        address: The server, as `host:port`.

    Args:
        sdk_client: The SDK's connected client; the connection takes the only reference to it.
        address: The server, for messages.
        backpressure: Limit of the calls that wait.
    """

    def __init__(
        self, sdk_client: ServiceClient, *, address: str, backpressure: "Backpressure"
    ) -> None:
        self.address = address
        self.service_client = ManagedServiceClient(self, sdk_client, backpressure)
        self._backpressure = backpressure
        self._running: dict[object, tuple[str, Worker | None]] = {}
        self._created: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._owner: weakref.ref[object] | None = None
        self._has_moved = False

    @property
    def is_closed(self) -> bool:
        """True after `close()`."""
        return self.service_client.is_closed

    @property
    def is_private(self) -> bool:
        """True where no manager will close it, so that its last user should."""
        return self._owner is None or self._owner() is None

    @property
    def workers(self) -> tuple[str, ...]:
        """Descriptions of the workers that run on it."""
        return tuple(description for description, _ in self._running.values())

    @property
    def state(self) -> ConnectionState:
        """State as far as it is known without an RPC."""
        if self.is_closed:
            return ConnectionState.CLOSED
        return ConnectionState.SILENT if self._backpressure.is_silent else ConnectionState.OPEN

    @property
    def counters(self) -> ConnectionCounters:
        """Sums, shared with the other connections of its manager."""
        return self._backpressure.counters

    @property
    def calls_in_flight(self) -> int:
        """Calls under way, long polls included."""
        return len(self.service_client.calls())

    @property
    def calls_waiting(self) -> int:
        """Calls under way since the service has last answered, without long polls."""
        return self._backpressure.waiting

    def check_usable(self) -> None:
        """Raise what any call would raise.

        Raises:
            ConnectionClosedError: It is closed, or was opened before this process was forked.
        """
        self.service_client.open_channel()

    def belongs_to(self, owner: object) -> None:
        """Make it shared: the owner, while it lives, closes it."""
        self._owner = weakref.ref(owner)

    def rotate_with(self, rotation: "CredentialRotation") -> None:
        """Let the rotation replace changed credentials, before calls and while workers run."""
        self.service_client.rotation = rotation

    def change_api_key(self, api_key: str | None) -> None:
        """Use another API key for all calls and workers from now on.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.service_client.update_api_key(api_key)
        self.service_client.config.api_key = api_key

    def take_over(self, fresh: "Connection") -> None:
        """Continue on the socket of another connection, with all clients, handles and workers.

        Calls under way finish on the old socket, which is closed then. The SDK keeps a worker's
        very first socket, unused, until the server or the worker ends it.

        Args:
            fresh: A connection without users; this closes it.

        Raises:
            ConnectionClosedError: One of both is closed already.
        """
        self.service_client.take_over(fresh.service_client)
        self._has_moved = True
        # Workers poll with the core's client that they read once, so they must read it again.
        running = {worker for _, worker in self._running.values() if worker is not None}
        for worker in running | {each for each in self._created if not each.is_running}:
            _replace_core_client(worker)

    def add_worker(self, worker: Worker) -> None:
        """Remember a worker until it runs, because it holds the socket before that, too."""
        self._created.add(worker)

    @contextmanager
    def working(self, description: str, worker: Worker | None = None) -> Generator[None]:
        """Note that a worker runs in the block, so that `close()` refuses.

        Args:
            description: Names the worker in the refusal.
            worker: The worker, which follows the connection to another socket.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.check_usable()
        if worker is not None and self._has_moved:
            _replace_core_client(worker)
        # Not the description: two workers may have the same one.
        key = object()
        self._running[key] = (description, worker)
        rotation = self.service_client.rotation
        watching = None if rotation is None else asyncio.create_task(rotation.watch())
        try:
            yield
        finally:
            del self._running[key]
            if watching is not None:
                watching.cancel()

    async def close(self) -> None:
        """Close the socket under all clients, handles and workers that do not run.

        Calls in flight and all later ones raise `ConnectionClosedError`. It may be called again,
        also concurrently.

        Raises:
            WorkersRunningError: Workers run on it; nothing was closed.
        """
        require_idle(self)
        await self.service_client.close()
        while self._created:
            worker = self._created.pop()
            try:
                await end_unstarted_worker(worker, timeout=_CORE_TIMEOUT)
            except (TimeoutError, RuntimeError, ValueError) as error:
                _logger.warning(
                    "The socket of the worker for task queue %r stays open: %r",
                    worker.task_queue,
                    error,
                )


def require_idle(*connections: Connection) -> None:
    """Raise if workers run on any of the connections.

    Raises:
        WorkersRunningError: They do; the message names them.
    """
    if workers := [worker for connection in connections for worker in connection.workers]:
        running = ", ".join(workers)
        msg = f"cannot close the connection: workers still run ({running}): shut them down first"
        raise WorkersRunningError(msg)


def _replace_core_client(worker: Worker) -> None:
    """Let the worker read the core's client again from its service client."""
    if worker.is_shutdown:
        return
    try:
        worker.client = worker.client
    except ValueError as error:  # of the core
        _logger.warning(
            "The worker for task queue %r stays on the old socket: %s", worker.task_queue, error
        )


class ManagedServiceClient(ServiceClient):
    """Service client of a connection that can be closed while others hold it."""

    def __init__(
        self, connection: Connection, sdk_client: ServiceClient, backpressure: "Backpressure"
    ) -> None:
        super().__init__(sdk_client.config)
        self.config: ConnectConfig
        self.connection = connection
        self.rotation: CredentialRotation | None = None
        self._address = connection.address
        self._backpressure = backpressure
        self._channel: Channel | None = Channel(sdk_client)
        self._retired: list[Channel] = []
        self._process = os.getpid()

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class.

        Raises:
            ConnectionClosedError: The connection is closed, or was closed during the call.
            ConnectionOverloadedError: Too many calls wait; this one was not sent.
        """
        # A long poll is silent by design, so it says nothing about backpressure.
        waits_for_events = getattr(req, "wait_new_event", False)
        is_long_poll = waits_for_events or rpc.startswith("poll_")
        is_repeatable = waits_for_events or rpc in _REPEATABLE_POLLS
        repeats = is_repeatable and options["timeout"] is None
        if not repeats and self.rotation is None:
            return await self._send(rpc, req, resp_type, options, is_long_poll)
        send: Callable[[], Awaitable[_Response]] = partial(
            self._send, rpc, req, resp_type, options, is_long_poll
        )
        if repeats:
            send = partial(self._poll, send)
        return await (send() if self.rotation is None else self.rotation.around(send))

    async def _send(
        self,
        rpc: str,
        request: Message,
        response_type: type[_Response],
        options: CallOptions,
        is_long_poll: bool,  # noqa: FBT001 - one argument of a private call
    ) -> _Response:
        channel = self.open_channel()
        backpressure = None if is_long_poll else self._backpressure
        if backpressure is not None and backpressure.is_overloaded:
            raise self._overloaded_error(rpc)
        call = InFlightCall(channel, backpressure)
        try:
            response = await rpc_call_of(channel.sdk_client)(rpc, request, response_type, **options)
        except BaseException as error:
            # True where close() cancelled the call, and not the caller.
            if not call.end(error):
                raise
        else:
            call.end(None)
            return response
        # Raised here and not in the except branch, or it would keep the cancellation's frames.
        raise self._closed_error()

    async def _poll(self, send: Callable[[], Awaitable[_Response]]) -> _Response:
        """Repeat a long poll whose connection is lost, while the service can be reached again.

        The SDK counts retries, and the time for them, from the start of a call. It would give up a
        poll that has lasted for a while at the first loss of its connection.
        """
        while True:
            try:
                return await send()
            except RPCError as error:
                if error.status not in NO_ANSWER or not await self._is_reachable():
                    raise

    async def _is_reachable(self) -> bool:
        try:
            await self.check_health(retry=True)
        except RPCError as error:
            # An error that the service sent is an answer, too.
            return error.status not in NO_ANSWER
        return True

    @property
    def worker_service_client(self) -> BridgeServiceClient:
        """Service client that the SDK's `Worker` polls with.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        return WorkerServiceClient(
            self, lambda: self.open_channel().sdk_client.worker_service_client
        )

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """Change the metadata of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.open_channel().sdk_client.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """Change the API key of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self.open_channel().sdk_client.update_api_key(api_key)

    def open_channel(self) -> "Channel":
        """Return the channel to send on, or say why there is none.

        Raises:
            ConnectionClosedError: The connection is closed, or this process was forked from the one
                that opened it: the SDK's threads do not exist here, and a call would hang.
        """
        if self._channel is None:
            raise self._closed_error()
        if (process := os.getpid()) != self._process:
            msg = (
                f"the connection to {self._address!r} was opened by process {self._process} and"
                f" does not survive the fork into {process}: open one in the child process, with a"
                " Runtime of its own, or start the child with spawn"
            )
            raise ConnectionClosedError(msg)
        return self._channel

    def take_over(self, fresh: "ManagedServiceClient") -> None:
        """Send on another service client's channel from now on; calls finish where they are.

        Args:
            fresh: A service client without calls; this closes it.

        Raises:
            ConnectionClosedError: One of both is closed already.
        """
        old, new = self.open_channel(), fresh.open_channel()
        fresh._channel = None  # noqa: SLF001 - of the same class
        self._channel = new
        self.config = fresh.config
        self._retired = [*(each for each in self._retired if each.calls), old]
        old.retire()

    @property
    def is_closed(self) -> bool:
        """True where no call can be made any more."""
        return self._channel is None

    async def close(self) -> None:
        """Refuse calls from now on, cancel those in flight, and release the socket."""
        channel, self._channel = self._channel, None
        if channel is not None:
            release_core_client(channel.sdk_client)
            self._retired.append(channel)
        for call in self.calls():
            call.cancel()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CANCELLATION_SECONDS
        while (left := self.calls()) and loop.time() < deadline:  # noqa: ASYNC110 - calls may belong to other loops, and those may be dead
            await asyncio.sleep(_CANCELLATION_CHECK_SECONDS)
        if left:
            _logger.warning(
                "The socket to %s stays open for now: %d call(s) belong to an event loop that does"
                " not run",
                self._address,
                len(left),
            )

    def calls(self) -> "list[InFlightCall]":
        """List the calls in flight, on replaced sockets, too."""
        channels = self._retired if self._channel is None else [*self._retired, self._channel]
        return [call for channel in channels for call in tuple(channel.calls)]

    def _overloaded_error(self, rpc: str) -> ConnectionOverloadedError:
        self._backpressure.counters.refused_calls += 1
        return ConnectionOverloadedError(
            f"{rpc} was not sent: {self._backpressure.waiting} calls wait for {self._address!r},"
            " which does not answer: retry later, or raise temporal.max_waiting_calls"
        )

    def _closed_error(self) -> ConnectionClosedError:
        return ConnectionClosedError(
            f"the connection to {self._address!r} is closed: open another one and make clients on"
            " it"
        )


class Channel:
    """One client of the SDK, hence one socket, and the calls in flight on it.

    Args:
        sdk_client: The connected client; the channel takes the only reference to it.
    """

    __slots__ = ("calls", "is_retired", "sdk_client")

    def __init__(self, sdk_client: ServiceClient) -> None:
        self.sdk_client = sdk_client
        self.calls: set[InFlightCall] = set()
        self.is_retired = False

    def retire(self) -> None:
        """Release the socket when the last call has ended; there are no new ones."""
        self.is_retired = True
        if not self.calls:
            release_core_client(self.sdk_client)


class InFlightCall:
    """One call of the running task, from its construction to `end()`.

    Args:
        channel: The channel that it is sent on.
        backpressure: Counts the call; None for long polls.
    """

    __slots__ = ("_backpressure", "_cancelling", "_channel", "_is_cancelled", "_task")

    def __init__(self, channel: Channel, backpressure: "Backpressure | None") -> None:
        task = asyncio.current_task()
        assert task is not None, "a call is awaited by a task"  # noqa: S101 - asyncio has no other way
        self._task = task
        self._cancelling = task.cancelling()
        self._is_cancelled = False
        self._channel = channel
        self._backpressure = backpressure
        channel.calls.add(self)
        if backpressure is not None:
            backpressure.add(self)

    def end(self, error: BaseException | None) -> bool:
        """Take the call off its channel.

        Returns:
            True where `cancel()` ended it, after undoing that cancellation. A caller that cancelled
            the task as well still gets the CancelledError, as with `asyncio.timeout()`.
        """
        channel = self._channel
        channel.calls.discard(self)
        if channel.is_retired and not channel.calls:
            release_core_client(channel.sdk_client)
        if self._backpressure is not None:
            self._backpressure.remove(self, error)
        if error is not None:
            _clear_frames(error)
        if not self._is_cancelled:
            return False
        is_ours = self._task.uncancel() <= self._cancelling
        return is_ours and isinstance(error, asyncio.CancelledError)

    def cancel(self) -> None:
        """Cancel the call, from any event loop and thread."""
        loop = self._task.get_loop()
        if loop is asyncio.get_running_loop():
            self._cancel()
            return
        try:
            loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # the loop was closed before the call ended
            self.end(asyncio.CancelledError())

    def _cancel(self) -> None:
        if self in self._channel.calls and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()


def _clear_frames(error: BaseException) -> None:
    """Clear the SDK's frames in the traceback, which refer to its client."""
    traceback.clear_frames(error.__traceback__)
    # The SDK raises RPCError while it handles the core's error, whose traceback has more of them.
    if isinstance(error, RPCError) and error.__context__ is not None:
        traceback.clear_frames(error.__context__.__traceback__)


class Backpressure:
    """Calls that wait since the service has last answered one, and the limit to that.

    Many calls under way are not a problem in themselves: a thousand starts at once are fine while
    the service works through them. So calls count from the last answer, and are too many only when
    that was long ago.

    Args:
        limit: Number of calls that may wait.
        silence: How long the service may leave all of them without an answer.
        counters: Where calls are counted.
    """

    def __init__(self, *, limit: int, silence: timedelta, counters: ConnectionCounters) -> None:
        self.limit = limit
        self._silence_seconds = silence.total_seconds()
        self.counters = counters
        self._waiting: set[object] = set()  # a set, because loops of several threads change it
        self._waiting_since = 0.0

    @property
    def waiting(self) -> int:
        """Number of calls that wait since the last answer."""
        return len(self._waiting)

    @property
    def is_silent(self) -> bool:
        """True where calls have waited for long without any answer."""
        waited = time.monotonic() - self._waiting_since
        return bool(self._waiting) and waited > self._silence_seconds

    @property
    def is_overloaded(self) -> bool:
        """True where another call should not be sent."""
        return len(self._waiting) >= self.limit and self.is_silent

    def add(self, call: object) -> None:
        """Count a call that is sent."""
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.add(call)
        self.counters.calls += 1

    def remove(self, call: object, error: BaseException | None) -> None:
        """Count the end of a call; any answer means that the service works."""
        if error is None or (isinstance(error, RPCError) and error.status not in NO_ANSWER):
            self._waiting = set()
            return
        self._waiting.discard(call)
        if isinstance(error, RPCError):
            self.counters.failed_calls += 1
