"""How a process of workers ends."""

import logging
import os
import sys
from enum import IntEnum
from typing import Final

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")


class WorkerExit(IntEnum):
    """What `run_worker()` returns, ready to be the exit code of the process.

    A second signal ends the process with 128 plus its number, as shells report it.
    """

    DRAINED = 0
    """Stopped by a signal or by `Worker.shutdown()`, everything in flight came to an end."""

    FAILED = 1
    """A worker failed; the cause is in the log."""

    NOT_STARTED = 2
    """The namespace is missing, or its search attribute; nothing was polled."""

    TIMED_OUT = 124
    """Activities were still running after the grace period and the time to cancel them."""


def end_process(code: int, why: str) -> None:
    """End the process now, threads that never end included."""
    _logger.error("Ending the process with exit code %d: %s", code, why)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
