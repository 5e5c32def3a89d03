"""From what is handed in to what is posted: described, masked, encoded, sent.

OTLP requests, written without OpenTelemetry's span objects.

A span that has ended needs no tracer, processor and exporter: it is some bytes. Spans that others
made come as requests of their own, and requests can simply be joined, as protobuf has it.

Masks what others put on spans, and sees that it names no other tenant.

The SDK's own `mask` sees inputs, outputs and metadata only, each whole. Everything that is text is
masked here, just before it is sent: names, status messages, exceptions, the attributes of other
libraries. Users, sessions and tags are labels that people filter by: code that acts for one tenant
must not be able to put its observations among another's, where tenants share a project.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from struct import Struct
from typing import Any, Final, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse.api import Delivery, Reply
from orkestra.langfuse.attributes import Describer, Ended, Observed
from orkestra.langfuse.mask import Masker, cleaned
from orkestra.tenancy import scope_id
from orkestra.tracing import SpanRecord, fitting


@dataclass(frozen=True, slots=True)
class Part:
    """Some spans, encoded.

    Attributes:
        content: A span of ours, or a whole request.
        is_ours: Which of both.
        spans: How many spans it has.
    """

    content: bytes
    is_ours: bool
    spans: int


class Wire:
    """The way to one project; used by one thread."""

    def __init__(self, settings: LangfuseSettings) -> None:
        """Send to the project of the settings."""
        masker = Masker(settings.mask)
        self._describer = Describer(settings, masker)
        self._scrubber = Scrubber(masker)
        self._envelope = Envelope(settings)
        self._delivery = Delivery(settings)

    def encode(self, item: Ended | Observed) -> Part:
        """Mask and encode; whatever goes wrong is raised."""
        if isinstance(item, Observed):
            return Part(self._scrubber.scrubbed(item), is_ours=False, spans=item.spans)
        try:
            span = self._encoded(item)
        except Exception:  # noqa: BLE001 - what code put on the span may be what cannot be written
            span = self._encoded(Ended(item.record))
        return Part(span, is_ours=True, spans=1)

    def _encoded(self, ended: Ended) -> bytes:
        describer = self._describer
        failure = describer.failure(ended.record.outcome)
        return encoded(ended.record, describer.name(ended), describer.attributes(ended), failure)

    def post(self, parts: Sequence[Part]) -> Reply:
        """Post some parts in one request."""
        ours = [part.content for part in parts if part.is_ours]
        others = b"".join(part.content for part in parts if not part.is_ours)
        return self._delivery.post((self._envelope.around(ours) if ours else b"") + others)

    def close(self) -> None:
        """Close the connections."""
        self._delivery.close()


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


_TECHNICAL: Final = frozenset(
    {
        names.AS_ROOT,
        names.COMPLETION_START_TIME,
        names.COST_DETAILS,
        names.ENVIRONMENT,
        names.IS_APP_ROOT,
        names.LEVEL,
        names.RELEASE,
        names.TYPE,
        names.USAGE_DETAILS,
    }
)
_SCOPED: Final = names.USERS | names.SESSIONS
_TENANT_TAG: Final = "tenant:"
_TENANT_KEY: Final = "tenant_id"
_TENANT_METADATA: Final = f"{names.TRACE_METADATA}.{_TENANT_KEY}"
_TENANT_KEYS: Final = frozenset({_TENANT_METADATA, f"{names.METADATA}.{_TENANT_KEY}"})
LABELS: Final = _SCOPED | names.TAGS | _TENANT_KEYS | {names.TRACE_METADATA}
"""Attributes that say whose a trace is, which code inside an attempt cannot set."""


class Scrubber:
    """Prepares spans that are not ours."""

    def __init__(self, masker: Masker) -> None:
        """Mask by the masker."""
        self._masker = masker

    def scrubbed(self, observed: Observed) -> bytes:
        """The spans as they may leave."""
        request = ExportTraceServiceRequest.FromString(observed.request)
        for of_resource in request.resource_spans:
            self._mask_values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                of_scope.scope.name = self._masker.text(of_scope.scope.name)
                for span in of_scope.spans:
                    self._scrub(span, observed.tenant)
        return request.SerializeToString()

    def _scrub(self, span: WireSpan, tenant: str | None) -> None:
        span.ClearField("trace_state")
        if self._masker.is_on:
            span.name = self._masker.text(span.name)
            if span.status.message:
                span.status.message = self._masker.text(span.status.message)
            self._mask_values(span.attributes)
            for event in span.events:
                event.name = self._masker.text(event.name)
                self._mask_values(event.attributes)
        for link in span.links:
            link.ClearField("trace_state")
            self._mask_values(link.attributes)
        self._label(span, tenant)

    def _label(self, span: WireSpan, tenant: str | None) -> None:
        """Make the labels the tenant's own, whatever the code inside set."""
        kept: list[KeyValue] = []
        tags = [] if tenant is None else [self._masker.text(f"{_TENANT_TAG}{tenant}")]
        for attribute in span.attributes:
            key, value = attribute.key, attribute.value
            if key in names.TAGS:
                tags += [tag for tag in _texts(value) if not _is_reserved(tag)]
            elif key in (names.TRACE_METADATA, names.METADATA):
                kept += [
                    KeyValue(key=key, value=value_of(text)) for text in _untenanted(key, value)
                ]
            elif key not in _TENANT_KEYS:
                if key in _SCOPED and tenant is not None:
                    value.string_value = fitting(scope_id(tenant, value.string_value))
                kept.append(KeyValue(key=key, value=value))
        if tags:
            kept.append(KeyValue(key=names.TRACE_TAGS, value=value_of(list(dict.fromkeys(tags)))))
        if tenant is not None:
            written = self._masker.written(json.dumps(tenant))
            kept.append(KeyValue(key=_TENANT_METADATA, value=value_of(written)))
        del span.attributes[:]
        span.attributes.extend(kept)

    def _mask_values(self, attributes: Iterable[KeyValue]) -> None:
        if not self._masker.is_on:
            return
        for attribute in attributes:
            if attribute.key not in _TECHNICAL:
                attribute.key = self._masker.key(attribute.key)
                self._mask(attribute.value)

    def _mask(self, value: AnyValue) -> None:
        kind = value.WhichOneof("value")
        if kind == "string_value":
            value.string_value = self._masker.written(value.string_value)
        elif kind == "bytes_value":
            value.bytes_value = self._masker.text(value.bytes_value.decode("latin-1")).encode()
        elif kind == "array_value":
            for item in value.array_value.values:
                self._mask(item)
        elif kind == "kvlist_value":
            self._mask_values(value.kvlist_value.values)


def _untenanted(key: str, metadata: AnyValue) -> list[str]:
    """All metadata in one, without what names the tenant; a trace's only if it is JSON."""
    try:
        said = json.loads(metadata.string_value)
    except RecursionError:
        return []
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return [] if key == names.TRACE_METADATA else [metadata.string_value]
    items = cast("dict[str, Any]", said).items()
    return [json.dumps({key: value for key, value in items if key != _TENANT_KEY})]


def _texts(value: AnyValue) -> list[str]:
    if value.WhichOneof("value") == "array_value":
        return [item.string_value for item in value.array_value.values]
    text = value.string_value
    if not text.startswith("["):
        return [text]
    try:
        return [cleaned(str(tag)) for tag in json.loads(text)]
    except (ValueError, RecursionError):
        return [text]


def _is_reserved(tag: str) -> bool:
    return tag.strip().lower().startswith(_TENANT_TAG)
