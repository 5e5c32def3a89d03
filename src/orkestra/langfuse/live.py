"""The span that an attempt's code runs in: current for OpenTelemetry and for the Langfuse SDK.

It is a span of OpenTelemetry's API and not of its SDK: what the code inside puts on it is kept, and
the whole is sent as every other span of ours once it has ended.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Status, StatusCode

from orkestra.langfuse import names, sdk
from orkestra.langfuse.items import Taker
from orkestra.langfuse.labels import LABELS
from orkestra.langfuse.naming import Attributes

ATTEMPT: Final = "orkestra-attempt"
"""Key of OpenTelemetry's context under which the attempt stands, for the spans made below it."""

_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_MAX_ADDED: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What the code of an attempt is told, in this process or in another.

    Attributes:
        trace_id: Its trace, as 32 hexadecimal digits.
        span_id: Its span, as 16 hexadecimal digits.
        is_sampled: Whether the trace is sent.
        tenant: For whom it acts.
        labels: Attributes that every span of the trace carries.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    tenant: str | None
    labels: Attributes


class AttemptSpan(OtelSpan):
    """Keeps what the code inside puts on it."""

    def __init__(self, inside: Inside, taker: Taker) -> None:
        """Stand for the attempt.

        Args:
            inside: The attempt.
            taker: Takes the spans that are made below it.
        """
        self.inside = inside
        self.taker = taker
        self.added: dict[str, object] = {}
        self.name: str | None = None
        self._is_ended = False
        self._context = trace.SpanContext(
            trace_id=int(inside.trace_id, 16),
            span_id=int(inside.span_id, 16),
            is_remote=False,
            trace_flags=_SAMPLED if inside.is_sampled else trace.DEFAULT_TRACE_OPTIONS,
        )

    @property
    def attributes(self) -> Mapping[str, object]:
        """What the Langfuse SDK asks for before it updates the current observation."""
        return {names.TYPE: "tool", **self.added}

    def get_span_context(self) -> trace.SpanContext:
        """See base class."""
        return self._context

    def is_recording(self) -> bool:
        """See base class."""
        return self.inside.is_sampled and not self._is_ended

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """See base class."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        """See base class; whose trace it is cannot be set."""
        is_room = len(self.added) < _MAX_ADDED or key in self.added
        if self.is_recording() and is_room and key not in LABELS:
            self.added[key] = value

    def update_name(self, name: str) -> None:
        """See base class."""
        if self.is_recording():
            self.name = name

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """See base class; Langfuse shows no events."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See base class; how the attempt ends is its status."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the base class's
    ) -> None:
        """See base class; the exception that ends the attempt is recorded."""

    def end(self, end_time: int | None = None) -> None:
        """See base class."""
        self._is_ended = True


@contextmanager
def entered(span: AttemptSpan) -> Generator[None]:
    """Make the span the current one for the code below."""
    inside = span.inside
    around = baggage.set_baggage(names.TRACE_ID_BAGGAGE, inside.trace_id, Context())
    below = trace.set_span_in_context(span, context.set_value(ATTEMPT, span, around))
    token = context.attach(below)
    try:
        with sdk.client_in_context(span.taker.public_key):
            yield
    finally:
        context.detach(token)


def attempt_in(otel_context: Context | None) -> AttemptSpan | None:
    """The attempt that a context is inside of."""
    found = context.get_value(ATTEMPT, otel_context)
    return found if isinstance(found, AttemptSpan) else None
