"""Sockets of this process, counted from the operating system."""

import psutil

from tests.support.waiting import until


class Sockets:
    """The sockets to one server that this process opened since the object was made."""

    def __init__(self, address: str) -> None:
        self._port = int(address.rpartition(":")[2])
        self._before = self._ours()

    @property
    def count(self) -> int:
        return len(self._ours() - self._before)

    async def are_gone(self) -> bool:
        """Wait until they have closed, while the loop runs on."""
        return await until(lambda: self.count == 0, lambda: f"{self.count} sockets are open")

    def _ours(self) -> set[int]:
        found = psutil.Process().net_connections("tcp")
        return {c.laddr.port for c in found if c.raddr and c.raddr.port == self._port}
