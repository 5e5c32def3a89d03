"""A moment for the SDK's threads before the interpreter goes away under them."""

import atexit
import time
from functools import cache


@cache
def settle_at_exit() -> None:
    """Wait a little at the end of the process, once however many ask for it.

    A script of the bare SDK that ended right after a call aborted in 12 of 50 runs (signals 6 and
    11, "PyGILState_Release"), because a thread of the core was still handing over a result; with
    this pause before the end, alternating with the others, in none of 50.
    """
    atexit.register(time.sleep, 0.05)
