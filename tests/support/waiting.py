"""Waiting for what takes the time it takes.

A deadline in a test ends a hang. It does not judge speed: the machine may be busy with other tests.
So there is one deadline for all, far longer than anything takes.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

Found = TypeVar("Found")

PATIENCE: Final = 60.0
"""Seconds to wait for anything. A test has three times as long, by the settings of pytest."""

PATIENTLY: Final = timedelta(seconds=PATIENCE)

# Many tests ask a server, and asking all the time would keep it from answering.
SHORTEST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.2


async def until(
    holds: Callable[[], Found | Awaitable[Found]], why: Callable[[], object] = lambda: ""
) -> Found:
    """Wait until a condition holds and return its value.

    Args:
        holds: The condition, a function or a coroutine function.
        why: What to tell when it never held.
    """
    deadline, pause = time.monotonic() + PATIENCE, SHORTEST_PAUSE
    while True:
        answer: Any = holds()
        found: Found = await answer if inspect.isawaitable(answer) else answer
        if found:
            return found
        assert time.monotonic() < deadline, why() or f"still {found!r} after {PATIENCE:.0f} s"
        await asyncio.sleep(pause)
        pause = min(1.2 * pause, LONGEST_PAUSE)


async def becomes(read: Callable[[], Awaitable[Found]], expected: Found) -> None:
    """Wait until what is read is as expected; lists of the server lag behind."""
    seen: list[Found] = []

    async def is_read() -> bool:
        seen[:] = [await read()]
        return seen == [expected]

    await until(is_read, lambda: f"{seen[0]!r} did not become {expected!r}")
