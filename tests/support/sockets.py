"""Sockets of this process, counted from the operating system."""

import asyncio
import time

import psutil

_GONE_WITHIN = 1.0


class Sockets:
    """The sockets to one server that this process opened since the object was made."""

    def __init__(self, address: str) -> None:
        self._port = int(address.rpartition(":")[2])
        self._before = self._ours()

    @property
    def count(self) -> int:
        return len(self._ours() - self._before)

    async def are_gone(self) -> bool:
        """Whether they close within a second, while the loop runs on."""
        deadline = time.monotonic() + _GONE_WITHIN
        while self.count and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return self.count == 0

    def _ours(self) -> set[int]:
        found = psutil.Process().net_connections("tcp")
        return {c.laddr.port for c in found if c.raddr and c.raddr.port == self._port}
