"""Servers that are something else than Temporal, or stand in its way."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HEADERS, _SETTINGS, _PING = 1, 4, 6
_ACK = _END_STREAM = 1
_END_HEADERS = 4


class Listener:
    """Hands each connection to a handler, counts them, and ends them all."""

    def __init__(
        self,
        handler: Handler,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._host = host
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, self._host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"{self._host}:{self.port}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
        await self.end_connections()

    async def end_connections(self) -> None:
        """End all that are open; new ones are welcome."""
        ending = tuple(self._tasks)
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    def stop(self) -> None:
        """Accept no more; what is open stays open."""
        self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._handler(reader, writer)
        finally:
            writer.transport.abort()


def proxy_to(address: str, *, tls: ssl.SSLContext | None = None) -> Listener:
    """Passes everything on to a server; with `tls` it is the server's TLS."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, onward = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(pump(reader, onward))
                pumps.create_task(pump(there, writer))
        finally:
            onward.transport.abort()

    return Listener(handle, tls=tls)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def silent() -> Listener:
    """Accepts and never says a word."""

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    return Listener(handle)


def hanging_up() -> Listener:
    """Closes every connection in order."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    return Listener(handle)


def resetting() -> Listener:
    """Resets every connection."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return Listener(handle)


def web_server() -> Listener:
    """Speaks HTTP/1.1, and so refuses HTTP/2 by a text."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        while await reader.read(65536):  # closing with something unread would be a reset
            pass

    return Listener(handle)


def answering(status: int, *, http_status: int = 200) -> Listener:
    """A gRPC server that answers every call with the same status."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(frame(_SETTINGS, 0, 0))
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                writer.write(frame(kind, _ACK, 0, body if kind == _PING else b""))
            if kind == _HEADERS:
                answer = field(b":status", str(http_status).encode())
                answer += field(b"content-type", b"application/grpc")
                if http_status == 200:
                    answer += field(b"grpc-status", str(status).encode())
                writer.write(frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, answer))
            await writer.drain()

    return Listener(handle)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def field(name: bytes, value: bytes) -> bytes:
    """A header field without indexing and Huffman coding."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
