"""Langfuse's side of tracing, for tests and the trace page: receive spans, list them, draw trees.

It accepts what Langfuse accepts: an OTLP request in protobuf with the keys of a project. Spans are
decoded from what came over the wire, so that tests see what a real Langfuse would get.
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
from orkestra.langfuse import attribute_names as names

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError as error:
    raise MissingExtraError("Receiving traces", "testing") from error

TRACES_PATH: Final = "/api/public/otel/v1/traces"
OBSERVATIONS_PATH: Final = "/api/public/v2/observations"
"""Paths below Langfuse's base URL: of spans that come in, and of the list of observations."""

_PROTOBUF_TYPES: Final = ("application/x-protobuf", "application/protobuf")
# zlib's code for gzip with the largest window.
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_MAX_BODY_BYTES: Final = 256 * 1024 * 1024
_PROJECT_ID: Final = "project"
_DEFAULT_LIMIT: Final = 50
_MAX_LIMIT: Final = 1000
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """Span that the receiver has accepted.

    Attributes:
        trace_id: Trace id, as 32 hexadecimal digits.
        span_id: Span id, as 16 hexadecimal digits.
        parent_id: Span id of the parent, which need not have been sent; None for a root.
        name: Name.
        start_ns: Start time, in nanoseconds since 1970.
        end_ns: End time, in nanoseconds since 1970.
        attributes: All attributes, over those of its resource.
        status_code: OpenTelemetry's status code: 0 unset, 1 OK, 2 error.
        status_text: Description of OpenTelemetry's status.
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
        """Observation type: `chain`, `tool`, `generation` and so on."""
        return self.attributes.get(names.TYPE)

    @property
    def level(self) -> str:
        """Level: `DEFAULT`, `WARNING` or `ERROR`."""
        return str(self.attributes.get(names.LEVEL, "DEFAULT"))

    @property
    def status_message(self) -> str | None:
        """Text of the error."""
        return self.attributes.get(names.STATUS_MESSAGE)

    @property
    def input(self) -> Any:
        """Arguments, decoded from JSON where they are JSON."""
        return _decoded(self.attributes.get(names.INPUT))

    @property
    def output(self) -> Any:
        """The result, decoded from JSON where it is JSON."""
        return _decoded(self.attributes.get(names.OUTPUT))

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the observation."""
        return self._below(f"{names.METADATA}.")

    @property
    def trace_metadata(self) -> dict[str, Any]:
        """Metadata of the trace."""
        return self._below(f"{names.TRACE_METADATA}.")

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the trace."""
        return tuple(self.attributes.get(names.TRACE_TAGS, ()))

    @property
    def user_id(self) -> str | None:
        """User of the trace."""
        return self.attributes.get(names.TRACE_USER)

    @property
    def session_id(self) -> str | None:
        """Session of the trace."""
        return self.attributes.get(names.TRACE_SESSION)

    @property
    def is_app_root(self) -> bool:
        """Whether Langfuse takes it for the root of its trace, although it has a parent."""
        return bool(self.attributes.get(names.IS_APP_ROOT, False))

    @property
    def duration(self) -> timedelta:
        """Duration."""
        return timedelta(microseconds=(self.end_ns - self.start_ns) / 1000)

    def _below(self, prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): _decoded(value)
            for key, value in self.attributes.items()
            if key.startswith(prefix)
        }


def decode_spans(body: bytes) -> list[ReceivedSpan]:
    """Decode the spans of an OTLP request that is not compressed.

    Raises:
        google.protobuf.message.DecodeError: It is no such request.
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
        # An ID of hexadecimal digits, such as 12e3, may decode to a number that encodes otherwise.
        is_text = isinstance(decoded, int | float) and json.dumps(decoded, allow_nan=False) != value
    except ValueError:
        return value
    return value if is_text else decoded


class InvalidSpansError(ValueError):
    """The body of a request is not OTLP, or not as its headers say."""


def is_authorized(authorization: str | None, *, public_key: str, secret_key: str) -> bool:
    """Check the `Authorization` header of a request for the keys of a project."""
    expected = b"Basic " + base64.b64encode(f"{public_key}:{secret_key}".encode())
    return hmac.compare_digest((authorization or "").encode(), expected)


def decode_request(
    body: bytes, *, content_type: str, encoding: str | None, max_bytes: int = _MAX_BODY_BYTES
) -> tuple[bytes, list[ReceivedSpan]]:
    """Read the spans of an HTTP request.

    Args:
        body: Its body.
        content_type: Its media type.
        encoding: Its content encoding.
        max_bytes: Size limit of the decompressed body.

    Returns:
        The decompressed body, and its spans.

    Raises:
        InvalidSpansError: Its type is not protobuf, or it cannot be decoded.
    """
    if content_type.partition(";")[0].strip().lower() not in _PROTOBUF_TYPES:
        msg = "Invalid content type"
        raise InvalidSpansError(msg)
    try:
        plain = _decompressed(body, max_bytes) if encoding == "gzip" else body
        return plain, decode_spans(plain)
    except (zlib.error, DecodeError) as error:
        msg = "Failed to parse OTel request"
        raise InvalidSpansError(msg) from error


def _decompressed(body: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW)
    # Bounded while it runs: a small body may unpack to gigabytes.
    plain = stream.decompress(body, max_bytes)
    if not stream.eof:
        msg = "truncated, or too large"
        raise zlib.error(msg)
    return plain


@dataclass(frozen=True, slots=True)
class TraceTree:
    """Span with its children, in the order of their start times."""

    span: ReceivedSpan
    children: "tuple[TraceTree, ...]" = ()

    @property
    def duration(self) -> timedelta:
        """Duration of the span."""
        return self.span.duration

    def walk(self, depth: int = 0) -> "Iterator[tuple[int, ReceivedSpan]]":
        """Yield every span of the tree with its depth, parents before children."""
        yield depth, self.span
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> "list[TraceTree]":
        """Find the trees within this one whose span has the name."""
        here = [self] if self.span.name == name else []
        return here + [found for child in self.children for found in child.find(name)]

    def outline(self) -> str:
        """Draw the names, a line each, indented by their depth."""
        return "\n".join("  " * depth + span.name for depth, span in self.walk())


def traces_of(spans: Iterable[ReceivedSpan]) -> dict[str, list[TraceTree]]:
    """Arrange spans as trees, and return the roots of each trace by its id.

    A span whose parent is not among the spans is a root, so a complete trace has one.
    """
    by_trace: dict[str, list[ReceivedSpan]] = {}
    # By end as well, so that a parent that starts together with its child has a fixed order.
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


class _BadRequestError(Exception):
    """The request has a parameter that Langfuse refuses."""


def observations_page(spans: Sequence[ReceivedSpan], query: str) -> tuple[HTTPStatus, object]:
    """Answer `GET /api/public/v2/observations` as Langfuse does, newest first.

    Of its filters this supports `traceId`, of its fields all of `core` and most of `basic`.

    Args:
        spans: All spans, in any order; one that came twice is listed twice, as in Langfuse.
        query: The request's query string.

    Returns:
        The status, and the body for JSON.
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
    """Write a time in milliseconds, the precision of Langfuse's database."""
    seconds, rest = divmod(nanoseconds, _SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
