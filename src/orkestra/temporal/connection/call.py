"""A call under way, and the SDK's client that it is on."""

import asyncio
import traceback
from types import TracebackType

from temporalio.service import RPCError, ServiceClient

from orkestra.temporal.connection.load import Load


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
        # The SDK's client is part of a cycle of references, and plugins may hold it: take the
        # core's client.
        self.sdk_client.worker_service_client._bridge_client = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no other way to close it


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
