"""OTLP requests, written without OpenTelemetry's span objects.

A span that has ended needs no tracer, processor and exporter: it is some bytes. Spans that others
made come as requests of their own, and requests can simply be joined, as protobuf has it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from orkestra.config import LangfuseSettings
from orkestra.langfuse import names
from orkestra.tracing import SpanRecord

Value = str | float | Sequence[str]
Attributes = Mapping[str, Value]

_RESOURCE_SPANS: Final = b"\x0a"
_SCOPE_SPANS: Final = b"\x12"
_SPANS: Final = b"\x12"
_MORE: Final = 0x80


class Envelope:
    """What stands around the spans of one project: who sends them."""

    def __init__(self, settings: LangfuseSettings) -> None:
        """Take environment, release and key from the settings."""
        attributes = {
            names.ENVIRONMENT: settings.environment,
            names.RELEASE: settings.release,
            "service.name": os.environ.get("OTEL_SERVICE_NAME"),
        }
        known = {key: value for key, value in attributes.items() if value}
        scope = InstrumentationScope(
            name=names.TRACER,
            version=version("langfuse"),
            attributes=_pairs({"public_key": settings.public_key or ""}),
        )
        resource = Resource(attributes=_pairs(known))
        self._resource = ResourceSpans(resource=resource).SerializeToString()
        self._scope = ScopeSpans(scope=scope).SerializeToString()

    def around(self, spans: Iterable[bytes]) -> bytes:
        """A request with spans that `encoded()` made."""
        inside = self._scope + b"".join(_framed(_SPANS, span) for span in spans)
        return _framed(_RESOURCE_SPANS, self._resource + _framed(_SCOPE_SPANS, inside))


def encoded(record: SpanRecord, name: str, attributes: Attributes, failure: str | None) -> bytes:
    """A span as it goes over the wire.

    Args:
        record: Its ids and times.
        name: Its name, masked.
        attributes: Its attributes, masked.
        failure: What went wrong, masked; None where nothing did.
    """
    span = record.span
    return Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        name=name,
        kind=Span.SpanKind.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=max(span.start_ns, record.end_ns),
        attributes=_pairs(attributes),
        status=None
        if failure is None
        else Status(code=Status.StatusCode.STATUS_CODE_ERROR, message=failure),
    ).SerializeToString()


def _pairs(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=value_of(value)) for key, value in attributes.items()]


def value_of(value: Value) -> AnyValue:
    """A text, a bool, a number or several texts, as OTLP has them."""
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=text) for text in value]))


def _framed(tag: bytes, content: bytes) -> bytes:
    length, written = len(content), bytearray(tag)
    while length >= _MORE:
        written.append(length & 0x7F | _MORE)
        length >>= 7
    written.append(length)
    return bytes(written) + content
