"""`Connection`: who uses a connection, and closing it.

The service client that clients and workers get: every call of theirs goes over one `Wire`.

What all clients of a connection share, and how it is taken away from all of them at once.

The SDK closes a socket when the last reference to its client is gone, and a client, a handle, a
call in flight and even the traceback of a failed call are such references. So nobody but the wire
keeps one: calls borrow it, and closing cancels them.

A call under way, and the SDK's client that it is on.

Workers that were made and do not run: the SDK ends them only after they have run.

Credentials that change while a connection is open.

An API key is changed in place. TLS is settled when a socket is opened, so certificates need a new
one: it is opened beside the old one, takes over what is new, and the old one closes with the last
call that is on it. Until new credentials work, the old ones stay.
"""

import asyncio
import contextvars
import logging
import os
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Final, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.runtime import Runtime
from temporalio.service import (
    ConnectConfig,
    RPCError,
    RPCStatusCode,
    ServiceClient,
)
from temporalio.worker import Worker

from orkestra.config import TemporalSettings
from orkestra.errors import (
    ConnectionClosedError,
    ConnectionOverloadedError,
    OrkestraError,
    WorkersRunningError,
)
from orkestra.temporal._sdk import (
    BridgeServiceClient,
    CallOptions,
    WorkerServiceClient,
    end_unstarted_worker,
    release_core_client,
    rpc_call_of,
)
from orkestra.temporal.connection.config import BadApiKeyError, BadCertificateError, connect_config
from orkestra.temporal.connection.load import (
    NO_ANSWER,
    ConnectionCounters,
    ConnectionState,
    Load,
    is_long_poll,
    is_reading_poll,
)


class Line:
    """One of the SDK's clients, and the calls that are under way on it.

    Args:
        sdk_client: The connected client, to which the line has the only reference.
    """

    __slots__ = ("_is_retired", "calls", "sdk_client")

    def __init__(self, sdk_client: ServiceClient) -> None:
        self.sdk_client = sdk_client
        self.calls: set[Call] = set()
        self._is_retired = False

    def retire(self) -> None:
        """Let go of the socket when the last call has ended; there will be no new ones."""
        self._is_retired = True
        if not self.calls:
            self.release()

    def forget(self, call: "Call") -> None:
        """Take a call that has ended off the line."""
        self.calls.discard(call)
        if self._is_retired and not self.calls:
            self.release()

    def release(self) -> None:
        """Let go of the socket, as far as no call holds it."""
        release_core_client(self.sdk_client)


class Call:
    """Marks a call in flight, as a block of the task that makes it."""

    __slots__ = ("_cancelling", "_is_cut", "_line", "_load", "_task")

    def __init__(self, line: "Line", load: Load | None) -> None:
        self._line = line
        self._load = load
        self._is_cut = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a call is awaited by a task"  # noqa: S101 - asyncio has no other way
        self._task = task
        self._cancelling = task.cancelling()
        self._line.calls.add(self)
        if self._load is not None:
            self._load.add(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        """Whether the block ended by `cut()`, after undoing that cancellation.

        A caller who cancelled the task as well still gets the CancelledError, as with
        `asyncio.timeout()`.
        """
        self._forget()
        if self._load is not None:
            self._load.end(self, exc)
        if exc is not None:
            _let_go(exc)
        if not self._is_cut:
            return False
        return self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError

    def cut(self) -> None:
        """Cancel the call, from whichever loop and thread."""
        loop = self._task.get_loop()
        if loop is asyncio.get_running_loop():
            self._cancel()
            return
        try:
            loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # its loop was closed without running it to its end
            self._forget()

    def _forget(self) -> None:
        self._line.forget(self)

    def _cancel(self) -> None:
        if self in self._line.calls and not self._is_cut:
            self._is_cut = True
            self._task.cancel()


def _let_go(error: BaseException) -> None:
    """Clear the SDK's frames in the traceback, which refer to its client."""
    traceback.clear_frames(error.__traceback__)
    # It raises RPCError while it handles its core's error, in whose traceback are more of them.
    if isinstance(error, RPCError) and error.__context__ is not None:
        traceback.clear_frames(error.__context__.__traceback__)


_Response = TypeVar("_Response", bound=Message)

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_UNWINDING: Final = 1.0
_TICK: Final = 0.001


class Wire:
    """The SDK's service client, lent to one call at a time.

    Args:
        sdk_client: The connected client, to which the wire has the only reference.
        address: Where it is connected to, for messages.
        load: Says when too many calls wait.
    """

    def __init__(self, sdk_client: ServiceClient, address: str, load: Load) -> None:
        self.address = address
        self.load = load
        self._line: Line | None = Line(sdk_client)
        self._retired: list[Line] = []
        self._process = os.getpid()

    @property
    def is_cut(self) -> bool:
        """Whether no call can be made any more."""
        return self._line is None

    @property
    def calls_in_flight(self) -> int:
        """How many calls are under way."""
        return len(self._calls())

    @property
    def sdk_client(self) -> ServiceClient:
        """The SDK's client; whoever keeps it keeps the socket open.

        Raises:
            ConnectionClosedError: The wire is cut, or this process was forked from the one that
                opened it: the SDK's threads did not come along, and a call would wait for ever.
        """
        return self._usable_line().sdk_client

    def _give_away(self) -> Line:
        line, self._line = self._usable_line(), None
        return line

    def _usable_line(self) -> Line:
        if self._line is None:
            raise self._closed_error()
        if (process := os.getpid()) != self._process:
            msg = (
                f"the connection to {self.address!r} was opened by process {self._process} and does"
                f" not survive the fork into {process}: open one in the child, with a Runtime of"
                " its own, or start the child by spawn"
            )
            raise ConnectionClosedError(msg)
        return self._line

    async def call(
        self,
        rpc: str,
        request: Message,
        response_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """Make one call, which ends with the wire at the latest.

        Raises:
            ConnectionClosedError: The wire is cut, or was cut meanwhile.
            ConnectionOverloadedError: Too many calls wait; this one was not sent.
            temporalio.service.RPCError: The call failed.
        """
        line = self._usable_line()
        is_ordinary = not is_long_poll(rpc, request)
        if is_ordinary and self.load.is_too_much:
            raise self._overloaded_error(rpc)
        with Call(line, self.load if is_ordinary else None):
            return await rpc_call_of(line.sdk_client)(rpc, request, response_type, **options)
        # Out of the except branch, so that the error does not keep the cancellation's frames.
        raise self._closed_error()

    def take_over(self, other: "Wire") -> None:
        """Send on another wire's client from now on; calls under way end where they are.

        Args:
            other: A wire without calls, which is cut by this.

        Raises:
            ConnectionClosedError: One of both is cut already.
        """
        line = self._usable_line()
        self._line = other._give_away()  # noqa: SLF001 - another one of us
        self._retired = [*(each for each in self._retired if each.calls), line]
        line.retire()

    async def cut(self) -> None:
        """Refuse calls from now on, end those in flight, and let go of the socket."""
        line, self._line = self._line, None
        if line is not None:
            line.release()
            self._retired.append(line)
        for call in self._calls():
            call.cut()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UNWINDING
        while (left := self._calls()) and loop.time() < deadline:  # noqa: ASYNC110 - calls may belong to other loops, and those may be dead
            await asyncio.sleep(_TICK)
        if left:
            _logger.warning(
                "The socket to %s stays open for now: %d call(s) belong to an event loop that does"
                " not run",
                self.address,
                len(left),
            )

    def _calls(self) -> list[Call]:
        lines = self._retired if self._line is None else [*self._retired, self._line]
        return [call for line in lines for call in tuple(line.calls)]

    def _overloaded_error(self, rpc: str) -> ConnectionOverloadedError:
        self.load.refuse()
        return ConnectionOverloadedError(
            f"{rpc} was not sent: {self.load.waiting} calls wait for {self.address!r}, which"
            " answers none: try again later, or raise temporal.max_waiting_calls"
        )

    def _closed_error(self) -> ConnectionClosedError:
        return ConnectionClosedError(
            f"the connection to {self.address!r} is closed: open another one and make clients on it"
        )


class ManagedServiceClient(ServiceClient):
    """A service client whose connection can be closed under everybody who holds it.

    Attributes:
        connection: The connection, shared with other service clients.
        rotation: Takes up changed credentials, where they can change.

    Args:
        connection: The connection that owns the wire.
        wire: The wire to send on.
    """

    def __init__(self, connection: "Connection", wire: Wire) -> None:
        super().__init__(wire.sdk_client.config)
        self.connection = connection
        self.rotation: Rotation | None = None
        self._wire = wire

    @property
    def worker_service_client(self) -> BridgeServiceClient:
        """What the SDK's `Worker` polls with.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        wire = self._wire
        return WorkerServiceClient(self, lambda: wire.sdk_client.worker_service_client)

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        """Change the metadata of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self._wire.sdk_client.update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        """Change the API key of every call on this connection, other clients' included.

        Raises:
            ConnectionClosedError: The connection is closed.
        """
        self._wire.sdk_client.update_api_key(api_key)

    async def _rpc_call(
        self,
        rpc: str,
        req: Message,
        resp_type: type[_Response],
        **options: Unpack[CallOptions],
    ) -> _Response:
        """See base class."""
        call: Callable[[], Awaitable[_Response]] = partial(
            self._wire.call, rpc, req, resp_type, **options
        )
        if options["timeout"] is None and is_reading_poll(rpc, req):
            call = partial(self._poll, call)
        rotation = self.rotation
        if rotation is None:
            return await call()
        await rotation.before_call()
        began = rotation.generation
        try:
            return await call()
        except RPCError as error:
            if not await rotation.has_mended(error.status, since=began):
                raise
        return await call()

    async def _poll(self, call: Callable[[], Awaitable[_Response]]) -> _Response:
        """Poll on when a connection is lost, as long as the service can be reached again.

        The SDK counts its retries, and the time for them, from the beginning of a call. So it would
        give up a poll that has lasted a while when its connection is lost for the first time.
        """
        while True:
            try:
                return await call()
            except RPCError as error:
                if error.status not in NO_ANSWER or not await self._is_reached():
                    raise

    async def _is_reached(self) -> bool:
        try:
            await self.check_health(retry=True)
        except RPCError as error:
            return error.status not in NO_ANSWER
        return True


_CORE_TIMEOUT: Final = timedelta(seconds=1)


def never_started(worker: Worker) -> bool:
    """Whether the worker has not polled yet, and may still do so."""
    return not worker.is_running and not worker.is_shutdown


async def _end_unstarted(worker: Worker) -> None:
    try:
        await end_unstarted_worker(worker, timeout=_CORE_TIMEOUT)
    except (TimeoutError, RuntimeError, ValueError) as error:
        _logger.warning(
            "The worker for task queue %r, which never ran, keeps its socket: %r",
            worker.task_queue,
            error,
        )


_PATIENCE: Final = 1.0
_REFUSED: Final = frozenset({RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED})


class Rotation:
    """Looks for changed credentials: before a call when it is time, and while workers run.

    There is no task or thread as long as nobody uses the connection.

    Attributes:
        generation: Grows with each change that was taken up.

    Args:
        connection: The connection to keep up to date.
        settings: Where the credentials are, and how often to look.
        runtime: Runtime of the connection.
        config: What the connection was opened with.
        reopen: Opens another connection with a changed configuration.
        counters: Where rotations are counted.
    """

    def __init__(
        self,
        connection: "Connection",
        settings: TemporalSettings,
        runtime: Runtime | None,
        *,
        config: ConnectConfig,
        reopen: "Callable[[ConnectConfig], Awaitable[Connection]]",
        counters: ConnectionCounters,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._runtime = runtime
        self._config = config
        self._reopen = reopen
        self._counters = counters
        self._interval = settings.credentials_refresh.total_seconds()
        self._due = time.monotonic() + self._interval
        self.generation = 0
        self._look: asyncio.Task[None] | None = None
        self._complaint = ""

    async def before_call(self) -> None:
        """Look for changes if it is time to; they may take a second, else the call goes ahead."""
        if time.monotonic() >= self._due:
            await asyncio.wait([self._looking()], timeout=_PATIENCE)

    async def has_mended(self, status: RPCStatusCode, *, since: int) -> bool:
        """Whether a call that failed is worth another try, because credentials have changed.

        A call that was under way on the old connection shares its fate; sending it again is what
        the SDK would have gone on doing there.

        Args:
            status: What it failed with; where that is a refusal, changes are looked for at once.
            since: The `generation` when it began.
        """
        if status in _REFUSED and self.generation == since:
            await asyncio.wait([self._looking()])
        return self.generation != since and (status in _REFUSED or status in NO_ANSWER)

    async def keep_looking(self) -> None:
        """Look for changes again and again, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))
            if time.monotonic() >= self._due:
                await asyncio.wait([self._looking()])

    def _looking(self) -> asyncio.Task[None]:
        """The look that this loop is taking, or a new one, in a context of nobody's."""
        look = self._look
        if look is None or look.done() or look.get_loop() is not asyncio.get_running_loop():
            self._due = time.monotonic() + self._interval
            look = asyncio.create_task(self._take_a_look(), context=contextvars.Context())
            self._look = look
        return look

    async def _take_a_look(self) -> None:
        try:
            config = await connect_config(self._settings, self._runtime)
            if config.tls != self._config.tls:
                await self._move(config)
                self._say("Certificates have changed: a new connection leads to Temporal at %s")
            elif config.api_key != self._config.api_key:
                self._connection.change_api_key(config.api_key)
                self._say("The API key for Temporal at %s has changed")
        except ConnectionClosedError:
            return
        except (BadCertificateError, BadApiKeyError, OrkestraError) as error:
            self._complain(str(error))
            return
        self._complaint = ""
        self._config = config

    async def _move(self, config: ConnectConfig) -> None:
        """Open another connection, with what users have changed on this one, and take it over."""
        current = self._connection.service_client.config
        if config.api_key == self._config.api_key:
            config = replace(config, api_key=current.api_key)
        fresh = await self._reopen(replace(config, rpc_metadata=current.rpc_metadata))
        try:
            self._connection.take_over(fresh)
        finally:
            await fresh.close()

    def _say(self, what: str) -> None:
        self.generation += 1
        self._counters.rotations += 1
        _logger.info(what, self._settings.address)

    def _complain(self, why: str) -> None:
        self._counters.failed_rotations += 1
        if why != self._complaint:
            self._complaint = why
            _logger.warning("Changed credentials cannot be used, the old ones stay: %s", why)


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
            await _end_unstarted(self._made.pop())


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
