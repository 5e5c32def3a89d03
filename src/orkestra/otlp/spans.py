"""Spans as they came over the wire, decoded from OTLP."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from orkestra.errors import MissingExtraError

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError as error:
    raise MissingExtraError("receiving traces", "testing") from error

_OBSERVATION: Final = "langfuse.observation."
_TRACE: Final = "langfuse.trace."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """A span that the receiver accepted.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_id: The span it hangs under, sent or not; None for a root.
        name: Its name.
        start_ns: When it began, in nanoseconds since 1970.
        end_ns: When it ended.
        attributes: All attributes as they came, those of its resource below them.
        status_code: OpenTelemetry's: 0 unset, 1 good, 2 an error.
        status_text: What OpenTelemetry's status says, besides its code.
        events: Names of its events.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(repr=False)
    status_code: int = 0
    status_text: str = ""
    events: tuple[str, ...] = ()

    @property
    def type(self) -> str | None:
        """Langfuse's type of observation: `chain`, `tool`, `generation` and so on."""
        return self.attributes.get(f"{_OBSERVATION}type")

    @property
    def level(self) -> str:
        """`DEFAULT`, `WARNING` or `ERROR`."""
        return str(self.attributes.get(f"{_OBSERVATION}level", "DEFAULT"))

    @property
    def status_message(self) -> str | None:
        """What went wrong."""
        return self.attributes.get(f"{_OBSERVATION}status_message")

    @property
    def input(self) -> Any:
        """Arguments, decoded from JSON where they are JSON."""
        return _decoded(self.attributes.get(f"{_OBSERVATION}input"))

    @property
    def output(self) -> Any:
        """The result, decoded from JSON where it is JSON."""
        return _decoded(self.attributes.get(f"{_OBSERVATION}output"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the observation."""
        return self._below(f"{_OBSERVATION}metadata.")

    @property
    def trace_metadata(self) -> dict[str, Any]:
        """Metadata of the trace."""
        return self._below(f"{_TRACE}metadata.")

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the trace."""
        return tuple(self.attributes.get(f"{_TRACE}tags", ()))

    @property
    def user_id(self) -> str | None:
        """User of the trace."""
        return self.attributes.get("user.id")

    @property
    def session_id(self) -> str | None:
        """Session of the trace."""
        return self.attributes.get("session.id")

    @property
    def is_app_root(self) -> bool:
        """Whether Langfuse takes it for the root of its trace."""
        return bool(self.attributes.get("langfuse.internal.is_app_root", False))

    @property
    def duration(self) -> timedelta:
        """How long it took."""
        return timedelta(microseconds=(self.end_ns - self.start_ns) / 1000)

    def _below(self, prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): _decoded(value)
            for key, value in self.attributes.items()
            if key.startswith(prefix)
        }


def decode_spans(body: bytes) -> list[ReceivedSpan]:
    """Decode an OTLP request.

    Args:
        body: The protobuf, not compressed.

    Returns:
        Its spans.

    Raises:
        google.protobuf.message.DecodeError: It is not such a request.
    """
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _received(span, dict(_pairs(of_resource.resource.attributes)))
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _received(span: Span, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={**resource, **dict(_pairs(span.attributes))},
        status_code=span.status.code,
        status_text=span.status.message,
        events=tuple(event.name for event in span.events),
    )


def _pairs(attributes: Any) -> Iterator[tuple[str, Any]]:
    pair: KeyValue
    for pair in attributes:
        yield pair.key, _value(pair.value)


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return dict(_pairs(value.kvlist_value.values))
    return getattr(value, kind) if kind else None


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
        # A text, such as an ID of hexadecimal digits, may read as a number that nobody writes so.
        is_text = isinstance(decoded, int | float) and _written(decoded) != value
    except ValueError:
        return value
    return value if is_text else decoded


def _written(number: float) -> str:
    return json.dumps(number, allow_nan=False)
