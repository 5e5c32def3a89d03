"""A very small HTTP server for probes, in a thread of its own.

It answers while the event loop of the workers is stuck, which is what it is there to tell. It
serves few connections at a time and drops the oldest for a new one, so that neither slow clients
nor thousands of them take files and memory away from the workers, or keep a probe from its answer.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

from orkestra.errors import ConfigurationError

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")

_MOST_CONNECTIONS: Final = 64
_LONGEST_REQUEST: Final = 8192
_PATIENCE: Final = 5.0
_STOPPING: Final = 2.0


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; version=0.0.4; charset=utf-8"

    @classmethod
    def of_json(cls, value: Mapping[str, Any], status: HTTPStatus) -> Self:
        """An answer in JSON."""
        return cls(json.dumps(value) + "\n", status, "application/json")


Handler = Callable[[], Answer]


class ProbeServer:
    """Serves `GET` and `HEAD` of some paths until `stop()`.

    Args:
        address: `host:port`; port 0 is any free one.
        handlers: By path; they are called in threads, and may take their time.

    Raises:
        ConfigurationError: The address cannot be had.
    """

    def __init__(self, address: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._socket = _listen(address)
        self._connections: dict[asyncio.StreamWriter, None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="orkestra-probes", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Stop answering."""
        with suppress(RuntimeError):  # stopped before
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOPPING)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_task(
            asyncio.start_server(self._serve, sock=self._socket, limit=_LONGEST_REQUEST)
        )
        try:
            self._loop.run_forever()
        finally:
            left = [task for task in asyncio.all_tasks(self._loop) if task is not serving]
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = None
        if len(self._connections) > _MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._respond(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # a client that says nothing, too much or goes away needs no answer
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition("\r\n")[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        answer = await self._answer(method, path)
        body = answer.body.encode()
        lines = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)

    async def _answer(self, method: str, path: str) -> Answer:
        handler = self._handlers.get(path)
        if handler is None:
            known = {"error": f"there is {', '.join(self._handlers)}"}
            return Answer.of_json(known, HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return Answer.of_json({"error": "only GET"}, HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return await asyncio.to_thread(handler)
        except Exception:
            _logger.exception("No answer to %s", path)
            return Answer.of_json({"error": "see the log"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        msg = f"worker.probes_address {address!r} cannot be listened on: {error}: give another"
        raise ConfigurationError(msg) from error
