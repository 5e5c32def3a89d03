"""Tells the browsers that look which traces have changed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Final

_HEARTBEAT: Final = 15.0
_GATHERING: Final = 0.2
_MOST_NAMED: Final = 500


class Changes:
    """Passes ids of traces on to all who listen. It belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Event, set[str]] = {}
        self._is_closed = False

    def publish(self, trace_ids: Sequence[str]) -> None:
        """Tell everybody."""
        for event, pending in self._listeners.items():
            pending.update(trace_ids)
            event.set()

    def close(self) -> None:
        """End what everybody listens to."""
        self._is_closed = True
        for event in self._listeners:
            event.set()

    async def stream(self) -> AsyncGenerator[str]:
        """Server-sent events: the ids of changed traces, several times a second at most."""
        event, pending = asyncio.Event(), set[str]()
        self._listeners[event] = pending
        try:
            yield "retry: 1000\n\n"
            while not self._is_closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), _HEARTBEAT)
                if pending and not self._is_closed:
                    await asyncio.sleep(_GATHERING)
                named = sorted(pending)[:_MOST_NAMED]
                pending.clear()
                event.clear()
                yield f"data: {json.dumps(named)}\n\n" if named else ": still here\n\n"
        finally:
            del self._listeners[event]
