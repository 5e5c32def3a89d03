"""What all clients of a connection share, and how it is taken away from all of them at once.

The SDK closes a socket when the last reference to its client is gone, and a client, a handle, a
call in flight and even the traceback of a failed call are such references. So nobody but the wire
keeps one: calls borrow it, and closing cancels them.
"""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Final, TypeVar

from google.protobuf.message import Message
from temporalio.service import RPCError, ServiceClient

from orkestra.errors import ConnectionClosedError

_Response = TypeVar("_Response", bound=Message)

_logger: Final = logging.getLogger("orkestra.temporal.connection")
_UNWINDING: Final = 1.0
_SETTLING: Final = 0.25
_TICK: Final = 0.001
_OUR_REFERENCES: Final = 2  # the client's attribute, and the argument of sys.getrefcount()


class Wire:
    """The SDK's service client, lent to one call at a time.

    Args:
        sdk_client: The connected client, to which the wire has the only reference.
        address: Where it is connected to, for messages.
    """

    def __init__(self, sdk_client: ServiceClient, address: str) -> None:
        self.address = address
        self._sdk_client: ServiceClient | None = sdk_client
        self._process = os.getpid()
        self._calls: set[_Call] = set()

    @property
    def is_cut(self) -> bool:
        """Whether no call can be made any more."""
        return self._sdk_client is None

    @property
    def sdk_client(self) -> ServiceClient:
        """The SDK's client; whoever keeps it keeps the socket open.

        Raises:
            ConnectionClosedError: The wire is cut, or this process was forked from the one that
                opened it: the SDK's threads did not come along, and a call would wait for ever.
        """
        if self._sdk_client is None:
            raise self._closed_error()
        if (process := os.getpid()) != self._process:
            msg = (
                f"the connection to {self.address!r} was opened by process {self._process} and does"
                f" not survive the fork into {process}: open one in the child, with a Runtime of"
                " its own, or start the child by spawn"
            )
            raise ConnectionClosedError(msg)
        return self._sdk_client

    async def call(
        self,
        rpc: str,
        request: Message,
        response_type: type[_Response],
        *,
        service: str,
        retry: bool,
        metadata: Mapping[str, str | bytes],
        timeout: timedelta | None,
    ) -> _Response:
        """Make one call, which ends with the wire at the latest.

        Raises:
            ConnectionClosedError: The wire is cut, or was cut meanwhile.
            temporalio.service.RPCError: The call failed.
        """
        with _Call(self._calls):
            return await self.sdk_client._rpc_call(  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the one way through which the SDK sends
                rpc,
                request,
                response_type,
                service=service,
                retry=retry,
                metadata=metadata,
                timeout=timeout,
            )
        # Out of the except branch, so that the error does not keep the cancellation's frames.
        raise self._closed_error()

    async def cut(self) -> None:
        """Refuse calls from now on, end those in flight, and let go of the socket."""
        sdk_client, self._sdk_client = self._sdk_client, None
        if sdk_client is not None:
            # It is part of a cycle of references, and plugins may hold it: take the core's client.
            sdk_client.worker_service_client._bridge_client = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no other way to close it
        for call in tuple(self._calls):
            call.cut()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UNWINDING
        while self._calls and loop.time() < deadline:  # noqa: ASYNC110 - calls may belong to other loops, and those may be dead
            await asyncio.sleep(_TICK)
        if self._calls:
            _logger.warning(
                "The socket to %s stays open for now: %d call(s) belong to an event loop that does"
                " not run",
                self.address,
                len(self._calls),
            )

    def _closed_error(self) -> ConnectionClosedError:
        return ConnectionClosedError(
            f"the connection to {self.address!r} is closed: open another one and make clients on it"
        )


class _Call:
    """Marks a call in flight, as a block of the task that makes it."""

    __slots__ = ("_calls", "_cancelling", "_is_cut", "_task")

    def __init__(self, calls: "set[_Call]") -> None:
        self._calls = calls
        self._is_cut = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a call is awaited by a task"  # noqa: S101 - asyncio has no other way
        self._task = task
        self._cancelling = task.cancelling()
        self._calls.add(self)

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
        self._calls.discard(self)
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
            self._calls.discard(self)

    def _cancel(self) -> None:
        if self in self._calls and not self._is_cut:
            self._is_cut = True
            self._task.cancel()


def _let_go(error: BaseException) -> None:
    """Clear the SDK's frames in the traceback, which refer to its client."""
    traceback.clear_frames(error.__traceback__)
    # It raises RPCError while it handles its core's error, in whose traceback are more of them.
    if isinstance(error, RPCError) and error.__context__ is not None:
        traceback.clear_frames(error.__context__.__traceback__)


async def settle(sdk_client: ServiceClient) -> None:
    """Wait until the core's threads have given back their reference to a new client.

    They leave that to the next call into the core. Where none follows, the socket of a connection
    that nobody holds stays open: one in ten that were dropped without having been used.

    Args:
        sdk_client: A service client that has just been connected.
    """
    deadline = asyncio.get_running_loop().time() + _SETTLING
    while not _is_settled(sdk_client) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - the core tells nobody
        await asyncio.sleep(_TICK)


def _is_settled(sdk_client: ServiceClient) -> bool:
    core = sdk_client.worker_service_client._bridge_client  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else can tell
    if core is None:
        return True
    core.update_metadata(sdk_client.config.rpc_metadata)
    return sys.getrefcount(core._ref) <= _OUR_REFERENCES  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
