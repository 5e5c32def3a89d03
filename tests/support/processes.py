"""Questions about other processes, which may end before they are answered."""

from collections.abc import Callable

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Whether it ended; it may wait for its parent, or a new one, to take note of it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
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
