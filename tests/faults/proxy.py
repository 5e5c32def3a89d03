"""A proxy that does to connections what networks do."""

import asyncio
import random
import ssl
from contextlib import suppress

from tests.support.listeners import Listener, pump

CHUNK = 16 * 1024


class Proxy(Listener):
    """Passes everything on to a server, late, slowly, in part or not at all.

    Each fault is an attribute that may be changed at any time.

    Attributes:
        target: Where new connections lead to.
        tls: Terminates the TLS of new connections.
        latency: Seconds that each piece takes longer, in either direction.
        bandwidth: Bytes a second of each connection and direction; None is without limit.
        reset_rate: Share of the pieces that reset their connection instead of arriving.
        resets: How many have.
        peers: Serial number of each client's certificate, or None where it has shown none.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(self._pass_on, host=host, port=port)
        self.target = target
        self.tls = tls
        self.latency = 0.0
        self.bandwidth: float | None = None
        self.reset_rate = 0.0
        self.resets = 0
        self.peers: list[str | None] = []
        self._random = random.Random(7)
        self._links: set[Link] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def swallow(self) -> None:
        """Let nothing through any more, and tell nobody: a black hole, until `recover()`."""
        self._is_open.clear()

    def recover(self) -> None:
        """Let through again; what was swallowed arrives late, as TCP would have it."""
        self._is_open.set()

    def forget(self) -> None:
        """Leave both sides of each connection half open: nobody will ever answer on it."""
        for link in self._links:
            link.is_forgotten = True

    def cut(self) -> None:
        """Reset every connection."""
        for link in tuple(self._links):
            link.reset()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._is_open.wait()
        if self.tls is not None:
            await writer.start_tls(self.tls)
            self.peers.append(writer.get_extra_info("peercert").get("serialNumber"))
        host, _, port = self.target.rpartition(":")
        there, onward = await asyncio.open_connection(host, int(port))
        link = Link(writer, onward)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._way(link, reader, onward)),
            asyncio.create_task(self._way(link, there, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.reset()
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)

    async def _way(
        self, link: "Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(link, pieces, writer))
        try:
            with suppress(OSError):
                while data := await reader.read(CHUNK):
                    if self.reset_rate and self._random.random() < self.reset_rate:
                        self.resets += 1
                        return
                    pieces.put_nowait((asyncio.get_running_loop().time() + self.latency, data))
                    if sending.done():
                        return
            if link.is_forgotten:
                await asyncio.Event().wait()
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send(
        self,
        link: "Link",
        pieces: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self._is_open.wait()
                if link.is_forgotten:
                    continue
                if self.bandwidth is not None:
                    await asyncio.sleep(len(data) / self.bandwidth)
                writer.write(data)
                await writer.drain()


class Link:
    """One connection through the proxy."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_forgotten = False

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class ConnectProxy(Listener):
    """A proxy of the kind that offices have: it is asked by HTTP CONNECT, and knows the names.

    Attributes:
        names: Where each `host:port` leads to.
        login: What it wants in `Proxy-Authorization`, or None.
        asked: What it was asked for, in order.
    """

    def __init__(self, names: dict[str, str], *, login: str | None = None) -> None:
        super().__init__(self._pass_on)
        self.names = names
        self.login = login
        self.asked: list[str] = []

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        name = first.split()[1]
        self.asked.append(name)
        fields = dict(line.lower().split(": ", 1) for line in headers if line)
        status = "200 OK" if name in self.names else "502 Bad Gateway"
        if self.login is not None and fields.get("proxy-authorization") != self.login.lower():
            status = "407 Proxy Authentication Required"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await writer.drain()
        if not status.startswith("200"):
            return
        host, _, port = self.names[name].rpartition(":")
        there, onward = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(pump(reader, onward))
                ways.create_task(pump(there, writer))
        finally:
            onward.transport.abort()
