"""Bounded memory and shared operations, for every layer.

Event loops, executors and the core's own threads read the same objects, so nothing here belongs to
one loop. Pure functions use `functools.lru_cache` instead.
"""

import asyncio
import contextvars
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")
_Result = TypeVar("_Result")

# One for all caches, so that a fork waits for it: its holder would not exist in the child, where an
# activity would wait for ever. Re-entrant, because freeing a displaced value may run code.
_lock: Final = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class LruCache(Generic[_Key, _Value]):
    """Least recently used cache, safe in any thread, and in a forked child.

    Args:
        limit: Number of entries that it keeps at most.
    """

    __slots__ = ("_limit", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._values)

    def get(self, key: _Key) -> _Value | None:
        """Return the value, which becomes the most recently used one."""
        with _lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Store a value, in place of the least recently used one where the cache is full."""
        with _lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._limit:
                self._values.popitem(last=False)

    def pop(self, key: _Key) -> _Value | None:
        """Remove an entry and return its value."""
        with _lock:
            return self._values.pop(key, None)


class SingleFlight(Generic[_Result]):
    """Operations that run once for all callers who ask for them at the same time.

    Each event loop has its own operations, so no caller waits for a loop that has stopped.

    Args:
        isolated: Run operations in an empty context, because tenant and trace are those of one
            caller among many; else an operation sees the context of its first caller.
        cancel_unwanted: Cancel an operation when its last caller gives up.
    """

    def __init__(self, *, isolated: bool = True, cancel_unwanted: bool = True) -> None:
        self._isolated = isolated
        self._cancel_unwanted = cancel_unwanted
        self._flights: dict[tuple[asyncio.AbstractEventLoop, Hashable], _Flight[_Result]] = {}

    async def join(
        self, key: Hashable, start: Callable[[], Coroutine[Any, Any, _Result]]
    ) -> _Result:
        """Wait for the operation of this key, and start it if none runs.

        Args:
            key: Callers with equal keys share one operation.
            start: Makes the operation.

        Returns:
            What the operation returns, the same object for all.

        Raises:
            BaseException: What the operation raises, to all; the next call starts a new one.
        """
        place = (asyncio.get_running_loop(), key)
        flight = self._flights.get(place)
        if flight is None or flight.task.done():
            flight = self._flights[place] = self._start(start)
            flight.task.add_done_callback(lambda task: self._land(place, task))
        flight.callers += 1
        try:
            # A caller that is cancelled must not cancel what the others wait for.
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if self._cancel_unwanted and not flight.callers:
                self._land(place, flight.task)
                flight.task.cancel()

    async def cancel(self) -> None:
        """Cancel every operation, and wait for those of the running loop."""
        here = asyncio.get_running_loop()
        tasks: list[asyncio.Task[_Result]] = []
        for (loop, _), flight in tuple(self._flights.items()):
            if loop is here:
                flight.task.cancel()
                tasks.append(flight.task)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(flight.task.cancel)
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, start: Callable[[], Coroutine[Any, Any, _Result]]) -> "_Flight[_Result]":
        for place in tuple(self._flights):
            if place[0].is_closed():  # its tasks never end, and no caller waits for them
                self._flights.pop(place, None)
        context = contextvars.Context() if self._isolated else None
        return _Flight(asyncio.create_task(start(), context=context))

    def _land(
        self,
        place: tuple[asyncio.AbstractEventLoop, Hashable],
        task: "asyncio.Task[_Result]",
    ) -> None:
        flight = self._flights.get(place)
        if flight is not None and flight.task is task:
            self._flights.pop(place, None)
        if task.done() and not task.cancelled():
            task.exception()  # retrieved, because every caller may have given up


class _Flight(Generic[_Result]):
    """A running operation and the number of its callers."""

    __slots__ = ("callers", "task")

    def __init__(self, task: "asyncio.Task[_Result]") -> None:
        self.task = task
        self.callers = 0
