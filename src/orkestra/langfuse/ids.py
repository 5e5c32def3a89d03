"""An id generator of OpenTelemetry that can be told the ids of the next span."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

_next: ContextVar[tuple[int, int] | None] = ContextVar("orkestra_next_span_ids", default=None)
_random: Final = RandomIdGenerator()


class ToldIds(IdGenerator):
    """Gives the ids of `next_ids()` inside it and random ones elsewhere.

    OpenTelemetry has no other way to choose a span's id.
    """

    def generate_span_id(self) -> int:
        """See base class."""
        told = _next.get()
        return told[1] if told else _random.generate_span_id()

    def generate_trace_id(self) -> int:
        """See base class."""
        told = _next.get()
        return told[0] if told else _random.generate_trace_id()


@contextmanager
def next_ids(trace_id: str, span_id: str) -> Generator[None]:
    """Give the span that is started inside these ids.

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
    """
    token = _next.set((int(trace_id, 16), int(span_id, 16)))
    try:
        yield
    finally:
        _next.reset(token)
