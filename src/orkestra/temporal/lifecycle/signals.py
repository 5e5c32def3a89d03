"""SIGTERM and SIGINT as events: the first asks to stop in order, the second to stop at once."""

import asyncio
import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """The signals that have come in, for the loop to wait on."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.last_signal = 0
        self._loop = asyncio.get_running_loop()

    @property
    def name(self) -> str:
        """The last signal's name."""
        return signal.Signals(self.last_signal).name

    def notice(self, number: int, _frame: FrameType | None = None) -> None:
        """Called by the interpreter, between two instructions of the main thread."""
        self.last_signal = number
        event = self.second if self.first.is_set() else self.first
        self._loop.call_soon_threadsafe(event.set)


@contextmanager
def stop_signals() -> Generator[StopSignals]:
    """Handlers of the interpreter, not of the loop, which can be starved by the SDK's core.

    A process with the number 1, as in a container, ignores signals that it has no handler for.
    """
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        _logger.warning("run_worker() outside the main thread: SIGTERM and SIGINT are not handled")
        yield stop
        return
    previous = {number: signal.signal(number, stop.notice) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
