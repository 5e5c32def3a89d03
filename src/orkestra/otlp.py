"""Spans as they came over the wire, decoded from OTLP.

What a Langfuse asks of a request that brings spans.

Traces as trees, to assert on and to draw.

What Langfuse's public API says of the observations of a trace, page by page.
"""

import base64
import binascii
import hmac
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from google.protobuf.message import DecodeError

from orkestra.errors import MissingExtraError

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError as error:
    raise MissingExtraError("Receiving traces", "testing") from error

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


TRACES_PATH: Final = "/api/public/otel/v1/traces"
"""Where Langfuse takes spans, below its base URL."""

_PROTOBUF: Final = ("application/x-protobuf", "application/protobuf")
_GZIP: Final = 16 + zlib.MAX_WBITS
_LARGEST: Final = 256 * 1024 * 1024


class InvalidSpansError(ValueError):
    """The body of a request is not what its headers say, or no OTLP."""


def is_authorized(authorization: str | None, *, public_key: str, secret_key: str) -> bool:
    """Whether the header of that name carries the keys of a project.

    Args:
        authorization: The header's value.
        public_key: The project's public key.
        secret_key: Its secret key.
    """
    expected = b"Basic " + base64.b64encode(f"{public_key}:{secret_key}".encode())
    return hmac.compare_digest((authorization or "").encode(), expected)


def decode_request(
    body: bytes, *, content_type: str, encoding: str | None, largest: int = _LARGEST
) -> tuple[bytes, list[ReceivedSpan]]:
    """Read the spans of a request.

    Args:
        body: The body as it came.
        content_type: Its media type.
        encoding: Its content encoding.
        largest: How many bytes it may have once it is decompressed.

    Returns:
        The body, decompressed, and its spans.

    Raises:
        InvalidSpansError: It is no protobuf by its type, or cannot be decoded.
    """
    if content_type.partition(";")[0].strip().lower() not in _PROTOBUF:
        msg = "Invalid content type"
        raise InvalidSpansError(msg)
    try:
        plain = _decompressed(body, largest) if encoding == "gzip" else body
        return plain, decode_spans(plain)
    except (zlib.error, DecodeError) as error:
        msg = "Failed to parse OTel request"
        raise InvalidSpansError(msg) from error


def _decompressed(body: bytes, largest: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    plain = stream.decompress(body, largest)
    if not stream.eof:
        msg = "cut off, or too large"
        raise zlib.error(msg)
    return plain


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A span and what hangs under it, in the order in which it began.

    Attributes:
        span: The span.
        children: What hangs under it.
    """

    span: ReceivedSpan
    children: "tuple[TraceTree, ...]" = ()

    @property
    def duration(self) -> timedelta:
        """How long the span took."""
        return self.span.duration

    def walk(self, depth: int = 0) -> "Iterator[tuple[int, ReceivedSpan]]":
        """Every span of the tree with its depth, parents before children."""
        yield depth, self.span
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> "list[TraceTree]":
        """The trees within this one whose span has the name."""
        here = [self] if self.span.name == name else []
        return here + [found for child in self.children for found in child.find(name)]

    def outline(self) -> str:
        """The names, a line each, indented by their depth."""
        return "\n".join("  " * depth + span.name for depth, span in self.walk())


def traces_of(spans: Iterable[ReceivedSpan]) -> dict[str, list[TraceTree]]:
    """Arrange spans as trees.

    Args:
        spans: Spans of any traces, each once.

    Returns:
        The roots of each trace by its id. A span whose parent is not among the spans is a root,
        so a complete trace has one.
    """
    by_trace: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        by_trace.setdefault(span.trace_id, []).append(span)
    return {trace_id: _roots(members) for trace_id, members in by_trace.items()}


def _roots(members: list[ReceivedSpan]) -> list[TraceTree]:
    known = {span.span_id for span in members}
    below: dict[str | None, list[ReceivedSpan]] = {}
    for span in members:
        parent = span.parent_id if span.parent_id in known else None
        below.setdefault(parent, []).append(span)
    return [_tree(span, below) for span in below.get(None, [])]


def _tree(span: ReceivedSpan, below: dict[str | None, list[ReceivedSpan]]) -> TraceTree:
    return TraceTree(span, tuple(_tree(child, below) for child in below.get(span.span_id, [])))


OBSERVATIONS_PATH: Final = "/api/public/v2/observations"
_PROJECT_ID: Final = "project"

_DEFAULT_LIMIT: Final = 50
_MAX_LIMIT: Final = 1000
_NANOSECONDS: Final = 1_000_000_000


class _BadRequestError(Exception):
    """The request has a parameter that Langfuse refuses."""


def observations_page(spans: Sequence[ReceivedSpan], query: str) -> tuple[HTTPStatus, object]:
    """Answer `GET /api/public/v2/observations` as the real one does, newest first.

    Of its filters it knows `traceId`, of its fields all of `core` and most of `basic`.

    Args:
        spans: What is there, in any order; one that came twice is listed twice.
        query: The request's query string.

    Returns:
        The status and what the body says as JSON.
    """
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    try:
        limit, offset = _limit(given), _offset(given)
    except _BadRequestError as error:
        refusal = {"message": "Invalid request data", "error": str(error)}
        return HTTPStatus.BAD_REQUEST, refusal
    trace_id = given.get("traceId")
    found = [span for span in spans if trace_id in (None, span.trace_id)]
    found.sort(key=lambda span: span.start_ns, reverse=True)
    meta: dict[str, str] = {}
    if offset + limit < len(found):
        meta["cursor"] = base64.b64encode(json.dumps(offset + limit).encode()).decode()
    data = [_observation(span) for span in found[offset : offset + limit]]
    return HTTPStatus.OK, {"data": data, "meta": meta}


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(_DEFAULT_LIMIT))
    if not text.isdecimal() or not 0 < int(text) <= _MAX_LIMIT:
        msg = f"limit must be 1 to {_MAX_LIMIT}"
        raise _BadRequestError(msg)
    return int(text)


def _offset(given: Mapping[str, str]) -> int:
    if "cursor" not in given:
        return 0
    try:
        return int(json.loads(base64.b64decode(given["cursor"], validate=True)))
    except (binascii.Error, ValueError, TypeError) as error:
        msg = "cursor is malformed"
        raise _BadRequestError(msg) from error


def _observation(span: ReceivedSpan) -> dict[str, Any]:
    return {
        "id": span.span_id,
        "traceId": span.trace_id,
        "startTime": _time(span.start_ns),
        "endTime": _time(span.end_ns),
        "projectId": _PROJECT_ID,
        "parentObservationId": span.parent_id,
        "type": (span.type or "span").upper(),
        "name": span.name,
        "level": span.level,
        "statusMessage": span.status_message,
        "userId": span.user_id,
        "sessionId": span.session_id,
        "isRootObservation": span.parent_id is None or span.is_app_root,
    }


def _time(nanoseconds: int) -> str:
    """In milliseconds, as Langfuse's database has it."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
