"""OTLP requests, written without OpenTelemetry's span objects.

A span that has ended needs no tracer, processor and exporter: it is some bytes. Spans that others
made come as requests of their own, and requests can simply be joined, as protobuf has it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from struct import Struct
from typing import Final

from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from orkestra.config import LangfuseSettings
from orkestra.langfuse import names
from orkestra.tracing import SpanRecord

Value = str | float | Sequence[str]
SpanValues = Mapping[str, Value]

_RESOURCE_SPANS: Final = b"\x0a"
_SCOPE_SPANS: Final = b"\x12"
_SPANS: Final = b"\x12"
_MORE: Final = 0x80

# Tags of the fields of `Span`, `KeyValue`, `AnyValue` and `Status`.
_TRACE_ID: Final = b"\x0a"
_SPAN_ID: Final = b"\x12"
_PARENT_ID: Final = b"\x22"
_NAME: Final = b"\x2a"
_KIND_INTERNAL: Final = b"\x30\x01"
_START: Final = 0x39
_END: Final = 0x41
_TIMES: Final = Struct("<BQBQ")
_ATTRIBUTE: Final = b"\x4a"
_STATUS: Final = b"\x7a"
_KEY: Final = b"\x0a"
_VALUE: Final = b"\x12"
_STRING: Final = b"\x0a"
_MESSAGE: Final = b"\x12"
_CODE_ERROR: Final = b"\x18\x02"

_SHORT: Final = 200


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


def encoded(record: SpanRecord, name: str, attributes: SpanValues, failure: str | None) -> bytes:
    """A span as it goes over the wire.

    Its bytes are written here because an object of protobuf's for each attribute takes several
    times as long.

    Args:
        record: Its ids and times.
        name: Its name, masked.
        attributes: Its attributes, masked.
        failure: What went wrong, masked; None where nothing did.
    """
    span = record.span
    written = [
        _framed(_TRACE_ID, bytes.fromhex(span.trace_id)),
        _framed(_SPAN_ID, bytes.fromhex(span.span_id)),
        _framed(_PARENT_ID, bytes.fromhex(span.parent_id or "")),
        _framed(_NAME, name.encode()),
        _KIND_INTERNAL,
        _TIMES.pack(_START, span.start_ns, _END, max(span.start_ns, record.end_ns)),
    ]
    for key, value in attributes.items():
        # Others than texts are remembered nowhere: 1, 1.0 and True are one key.
        is_short = type(value) is str and len(value) <= _SHORT
        written.append(_remembered(key, value) if is_short else _written(key, value))
    if failure is not None:
        written.append(_framed(_STATUS, _framed(_MESSAGE, failure.encode()) + _CODE_ERROR))
    return b"".join(written)


def _written(key: str, value: Value) -> bytes:
    if type(value) is str:
        content = _framed(_STRING, value.encode())
    else:
        content = value_of(value).SerializeToString()
    return _framed(_ATTRIBUTE, _framed(_KEY, key.encode()) + _framed(_VALUE, content))


_remembered: Final = lru_cache(1024)(_written)
"""Most short attributes are on every span."""


def _pairs(attributes: SpanValues) -> list[KeyValue]:
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
    length = len(content)
    if length < _MORE:
        return b"%b%c%b" % (tag, length, content)
    written = bytearray(tag)
    while length >= _MORE:
        written.append(length & 0x7F | _MORE)
        length >>= 7
    written.append(length)
    return bytes(written) + content
