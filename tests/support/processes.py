"""Questions about other processes, which may end before they are answered."""

import asyncio
import time
from collections.abc import Callable

import psutil

PATIENCE = 30.0


def has_ended(process: psutil.Process) -> bool:
    """Whether it ended; it may wait for its parent, or a new one, to take note of it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
        return True


async def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def child_that(holds: Callable[[psutil.Process], bool], *, of: int) -> psutil.Process:
    """The one process below another for which something holds."""

    def is_it(child: psutil.Process) -> bool:
        try:
            return holds(child)
        except psutil.NoSuchProcess:
            return False

    [found] = filter(is_it, psutil.Process(of).children(recursive=True))
    return found
