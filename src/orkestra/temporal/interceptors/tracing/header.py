"""The Temporal header that carries the trace, in plain JSON."""

from collections.abc import Mapping
from typing import Final

from temporalio.api.common.v1 import Payload

from orkestra.tracing import TraceContext

TRACE_HEADER: Final = "_orkestra-trace"
"""Name of the header; `orkestra.tracing.TraceContext` says what stands in it."""

_NOTHING: Final = TraceContext()

NexusHeaders = Mapping[str, str]
Headers = Mapping[str, Payload]


def read_header(headers: Headers) -> TraceContext:
    """What the header says; nothing where it is missing or cannot be read."""
    payload = headers.get(TRACE_HEADER)
    return (payload and TraceContext.decode(payload.data)) or _NOTHING


def write_header(headers: Headers, context: TraceContext | None) -> dict[str, Payload]:
    """The headers with ours for the context, or without ours for None.

    Args:
        headers: The headers of a call; whatever they say about our trace is dropped.
        context: What to carry.
    """
    others = {name: payload for name, payload in headers.items() if name != TRACE_HEADER}
    if context is None:
        return others
    payload = Payload(metadata={"encoding": b"json/plain"}, data=context.encode())
    return {**others, TRACE_HEADER: payload}


def read_nexus_header(headers: NexusHeaders) -> TraceContext:
    """What a Nexus operation's header says; nothing where it is missing or cannot be read."""
    found = (value for name, value in headers.items() if name.lower() == TRACE_HEADER)
    return TraceContext.decode(next(found, "").encode()) or TraceContext()


def write_nexus_header(headers: NexusHeaders | None, context: TraceContext) -> dict[str, str]:
    """The headers of a Nexus operation with ours, in ASCII, in place of any that reads alike."""
    given = headers or {}
    others = {name: value for name, value in given.items() if name.lower() != TRACE_HEADER}
    return {**others, TRACE_HEADER: context.encode(ascii_only=True).decode()}
