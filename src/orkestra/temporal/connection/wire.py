"""What all clients of a connection share, and how it is taken away from all of them at once.

The SDK closes a socket when the last reference to its client is gone, and a client, a handle, a
call in flight and even the traceback of a failed call are such references. So nobody but the wire
keeps one: calls borrow it, and closing cancels them.
"""

import asyncio
import logging
import os
from typing import Final, TypeVar, Unpack

from google.protobuf.message import Message
from temporalio.service import ServiceClient

from orkestra.errors import ConnectionClosedError, ConnectionOverloadedError
from orkestra.temporal.call_options import CallOptions
from orkestra.temporal.connection.call import Call, Line
from orkestra.temporal.connection.load import Load, is_long_poll

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
            return await line.sdk_client._rpc_call(  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the one way through which the SDK sends
                rpc, request, response_type, **options
            )
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
