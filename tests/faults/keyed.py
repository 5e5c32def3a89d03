"""A gate in front of the server that looks at the API key of every request, by worker and client.

Keys are compared as they stand on the wire, compressed, so nothing here needs to decompress them.
"""

import asyncio
from collections.abc import Iterator

from tests.support.listeners import Listener, field, frame

_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_ACK = 1
_END_STREAM_AND_HEADERS = 5
_NO_TABLE = (1).to_bytes(2, "big") + (0).to_bytes(4, "big")
_AUTHORIZATION = 23  # in HPACK's static table, which has 61 entries
_STATIC = 61
_UNAUTHENTICATED = b"16"

Name = int | bytes


class KeyGate(Listener):
    """Refuses requests by their API key, as UNAUTHENTICATED.

    Attributes:
        keys: Each key that was seen, in the order in which they came.
        refused: How many requests were.
    """

    def __init__(self, target: str) -> None:
        super().__init__(self._pass_on)
        self._target = target
        self.keys: list[bytes] = []
        self._revoked: frozenset[bytes] = frozenset()
        self.refused = 0

    def revoke(self, place: int) -> None:
        """Refuse the key that stands there in `keys`."""
        self._revoked |= {self.keys[place]}

    def admits(self, key: bytes) -> bool:
        if key not in self.keys:
            self.keys.append(key)
        if key in self._revoked:
            self.refused += 1
        return key not in self._revoked

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        there, onward = await asyncio.open_connection(host, int(port))
        try:
            onward.write(await reader.readexactly(24))
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_Requests(self, writer).check(reader, onward))
                ways.create_task(_answer(there, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            onward.transport.abort()


class _Requests:
    """The requests of one connection."""

    def __init__(self, gate: KeyGate, back: asyncio.StreamWriter) -> None:
        self._gate = gate
        self._back = back
        self._table: list[tuple[Name, bytes]] = []
        self._refused: set[int] = set()

    async def check(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while True:
            kind, flags, stream, body = await _read(reader)
            if kind == _HEADERS and not self._gate.admits(dict(self._fields(body))[_AUTHORIZATION]):
                self._refuse(stream)
            if stream not in self._refused:
                onward.write(frame(kind, flags, stream, body))
                await onward.drain()
            elif kind == _DATA and body:
                self._back.write(frame(_WINDOW_UPDATE, 0, 0, len(body).to_bytes(4, "big")))

    def _refuse(self, stream: int) -> None:
        self._refused.add(stream)
        answer = field(b":status", b"200") + field(b"content-type", b"application/grpc")
        answer += field(b"grpc-status", _UNAUTHENTICATED)
        self._back.write(frame(_HEADERS, _END_STREAM_AND_HEADERS, stream, answer))

    def _fields(self, block: bytes) -> Iterator[tuple[Name, bytes]]:
        """Header fields by the static table's number or the compressed name."""
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                number, at = _integer(block, at, 7)
                yield self._at(number)
            elif first & 0xE0 == 0x20:  # the table's new size, which is what we have asked for
                _, at = _integer(block, at, 5)
                self._table.clear()
            else:
                is_kept = first & 0xC0 == 0x40
                number, at = _integer(block, at, 6 if is_kept else 4)
                name: Name
                if number:
                    name = self._at(number)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                if is_kept:
                    self._table.insert(0, (name, value))
                yield name, value

    def _at(self, number: int) -> tuple[Name, bytes]:
        return (number, b"") if number <= _STATIC else self._table[number - _STATIC - 1]


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not block[at - 1] & 0x80:
            return value, at


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    length, at = _integer(block, at, 7)
    return block[at : at + length], at + length


async def _answer(reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    """Pass on what the server says, and forbid the client a table of its own."""
    while True:
        kind, flags, stream, body = await _read(reader)
        if kind == _SETTINGS and not flags & _ACK:
            body += _NO_TABLE
        back.write(frame(kind, flags, stream, body))
        await back.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    head = await reader.readexactly(9)
    body = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], head[4], int.from_bytes(head[5:], "big"), body
