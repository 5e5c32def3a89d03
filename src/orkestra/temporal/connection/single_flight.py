"""One running operation for all who ask for it at the same time."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")


class SingleFlight(Generic[_Result]):
    """Lets callers share a running operation, which none of them ends by giving up alone.

    Each event loop has flights of its own, so that nobody waits for a loop that has stopped.
    """

    def __init__(self) -> None:
        self._flights: dict[tuple[asyncio.AbstractEventLoop, Hashable], _Flight[_Result]] = {}

    async def join(
        self, key: Hashable, start: Callable[[], Coroutine[Any, Any, _Result]]
    ) -> _Result:
        """Wait for the operation of this key, starting it where none runs.

        Args:
            key: Callers with equal keys share one operation.
            start: Makes the operation; when all who wait for it have given up, it is cancelled.

        Returns:
            What the operation returns, the same object for all.

        Raises:
            BaseException: What the operation raises, to all; the next call starts it anew.
        """
        place = (asyncio.get_running_loop(), key)
        flight = self._flights.get(place)
        if flight is None or flight.task.done():
            self._forget_dead_loops()
            flight = self._flights[place] = self._take_off(start)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._forget(place, flight)
                flight.task.cancel()

    async def cancel(self) -> None:
        """Cancel every operation, and wait for those of the running loop."""
        here = asyncio.get_running_loop()
        for (loop, _), flight in tuple(self._flights.items()):
            if loop is here:
                flight.task.cancel()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(flight.task.cancel)
        tasks = [flight.task for (loop, _), flight in self._flights.items() if loop is here]
        if tasks:
            await asyncio.wait(tasks)

    def _take_off(self, start: Callable[[], Coroutine[Any, Any, _Result]]) -> "_Flight[_Result]":
        """Start in a context of its own: tenant and trace are those of one caller among many."""
        return _Flight(asyncio.create_task(start(), context=contextvars.Context()))

    def _forget(
        self, place: tuple[asyncio.AbstractEventLoop, Hashable], flight: "_Flight[_Result]"
    ) -> None:
        if self._flights.get(place) is flight:
            del self._flights[place]

    def _forget_dead_loops(self) -> None:
        for place, flight in tuple(self._flights.items()):
            if place[0].is_closed():
                self._forget(place, flight)


class _Flight(Generic[_Result]):
    """An operation and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[_Result]") -> None:
        self.task = task
        self.waiting = 0
