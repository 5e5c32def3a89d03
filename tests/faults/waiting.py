"""Waiting for what takes the time it takes."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], timeout: float = 40) -> None:
    """Wait for a condition, far longer than it should take."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)
