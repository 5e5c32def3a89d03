"""Spans on their way out: encoded as OTLP, redacted and posted to Langfuse.

Only the exporter's thread imports this module, because it loads OpenTelemetry's messages and an
HTTP client.

Third-party spans are redacted here, just before they leave. The SDK's own `mask` sees inputs,
outputs and metadata only; here every text is masked: names, status messages, exceptions and the
attributes of other libraries. Users, sessions and tags are labels that people filter by. In a
project that tenants share, code that acts for one tenant must not be able to put its observations
among another's (B21).
"""

import base64
import gzip
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.metadata import version
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse.attributes import Masker, SpanAttributes, ThirdPartySpans, encodable
from orkestra.tenancy import scope_id
from orkestra.tracing import (
    TENANT_METADATA_KEY,
    TENANT_TAG_PREFIX,
    FinishedSpan,
    fitting,
    is_reserved_tag,
)

_TENANT_METADATA: Final = f"{names.TRACE_METADATA}.{TENANT_METADATA_KEY}"
_TENANT_METADATA_KEYS: Final = frozenset(
    {_TENANT_METADATA, f"{names.METADATA}.{TENANT_METADATA_KEY}"}
)
TRACE_LABELS: Final = (
    names.USERS | names.SESSIONS | names.TAGS | _TENANT_METADATA_KEYS | {names.TRACE_METADATA}
)
"""Attributes of the whole trace, which an activity's code cannot set on its span."""

_NEVER_MASKED: Final = frozenset(
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


@dataclass(frozen=True, slots=True)
class EncodedSpans:
    """One span of Orkestra's, or a request of third-party spans, with the number of spans."""

    message: OtlpSpan | ExportTraceServiceRequest
    count: int = 1


class SpanEncoder:
    """Encoder for one project; used by one thread."""

    def __init__(self, settings: LangfuseSettings) -> None:
        self._masker = Masker(settings.mask)
        self._attributes = SpanAttributes(settings, self._masker)
        known = {
            names.ENVIRONMENT: settings.environment,
            names.RELEASE: settings.release,
            "service.name": os.environ.get("OTEL_SERVICE_NAME"),
        }
        resource = {key: value for key, value in known.items() if value}
        self._resource = Resource(attributes=_key_values(resource))
        self._scope = InstrumentationScope(
            name=names.TRACER,
            version=version("langfuse"),
            attributes=_key_values({"public_key": settings.public_key or ""}),
        )

    def encode(self, item: FinishedSpan | ThirdPartySpans) -> EncodedSpans:
        """Mask and encode; raises whatever goes wrong."""
        if isinstance(item, ThirdPartySpans):
            return EncodedSpans(self._redacted(item), item.count)
        try:
            return EncodedSpans(self._span(item))
        except Exception:  # noqa: BLE001 - perhaps it is only the code's own attributes that fail
            return EncodedSpans(self._span(replace(item, added={}, name=None)))

    def request(self, spans: Iterable[EncodedSpans]) -> bytes:
        """Put spans together into one OTLP request."""
        scope_spans = ScopeSpans(scope=self._scope)
        request = ExportTraceServiceRequest()
        for each in spans:
            if isinstance(each.message, OtlpSpan):
                scope_spans.spans.append(each.message)
            else:
                request.MergeFrom(each.message)
        if scope_spans.spans:
            resource_spans = ResourceSpans(resource=self._resource, scope_spans=[scope_spans])
            request.resource_spans.append(resource_spans)
        return request.SerializeToString()

    def _span(self, finished: FinishedSpan) -> OtlpSpan:
        span = finished.span
        encoded = OtlpSpan(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_id or ""),
            name=self._attributes.name(finished),
            kind=OtlpSpan.SPAN_KIND_INTERNAL,
            start_time_unix_nano=span.start_ns,
            end_time_unix_nano=max(span.start_ns, finished.end_ns),
            attributes=_key_values(self._attributes.of_span(finished)),
        )
        error = self._attributes.error_message(finished.outcome)
        if error is not None:
            encoded.status.CopyFrom(Status(message=error, code=Status.STATUS_CODE_ERROR))
        return encoded

    # --- Third-party spans -----------------------------------------------------------------------

    def _redacted(self, spans: ThirdPartySpans) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest.FromString(spans.request)
        for resource_spans in request.resource_spans:
            self._mask_attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                scope_spans.scope.name = self._masker.text(scope_spans.scope.name)
                for span in scope_spans.spans:
                    self._redact(span, spans.tenant)
        return request

    def _redact(self, span: OtlpSpan, tenant: str | None) -> None:
        # Free text from outside that no mask has seen.
        span.ClearField("trace_state")
        if self._masker.is_on:
            span.name = self._masker.text(span.name)
            if span.status.message:
                span.status.message = self._masker.text(span.status.message)
            self._mask_attributes(span.attributes)
            for event in span.events:
                event.name = self._masker.text(event.name)
                self._mask_attributes(event.attributes)
        for link in span.links:
            link.ClearField("trace_state")
            self._mask_attributes(link.attributes)
        # Last, because the mask may change the names of attributes.
        self._relabel(span, tenant)

    def _relabel(self, span: OtlpSpan, tenant: str | None) -> None:
        """Make the trace's labels the tenant's own, whatever the code has set (B21)."""
        kept: list[KeyValue] = []
        tags = [] if tenant is None else [self._masker.text(f"{TENANT_TAG_PREFIX}{tenant}")]
        for attribute in span.attributes:
            key, value = attribute.key, attribute.value
            # Tags of other libraries move to Langfuse's own attribute, where the tenant's tag is.
            if key in names.TAGS:
                tags += [tag for tag in _texts(value) if not is_reserved_tag(tag)]
            elif key in (names.TRACE_METADATA, names.METADATA):
                if (text := _without_tenant(key, value)) is not None:
                    kept += _key_values({key: text})
            elif key not in _TENANT_METADATA_KEYS:
                # Prefixed as in Orkestra's own spans, because tenants may share the project (B21).
                if key in names.USERS | names.SESSIONS and tenant is not None:
                    value.string_value = fitting(scope_id(tenant, value.string_value))
                kept.append(KeyValue(key=key, value=value))
        if tags:
            kept += _key_values({names.TRACE_TAGS: list(dict.fromkeys(tags))})
        if tenant is not None:
            kept += _key_values({_TENANT_METADATA: self._masker.json_text(json.dumps(tenant))})
        del span.attributes[:]
        span.attributes.extend(kept)

    def _mask_attributes(self, attributes: Iterable[KeyValue]) -> None:
        if not self._masker.is_on:
            return
        for attribute in attributes:
            if attribute.key not in _NEVER_MASKED:
                attribute.key = self._masker.key(attribute.key)
                self._mask_value(attribute.value)

    def _mask_value(self, value: AnyValue) -> None:
        kind = value.WhichOneof("value")
        if kind == "string_value":
            value.string_value = self._masker.json_text(value.string_value)
        elif kind == "bytes_value":
            # Latin-1 decodes any bytes, and leaves ASCII readable for the mask.
            value.bytes_value = self._masker.text(value.bytes_value.decode("latin-1")).encode()
        elif kind == "array_value":
            for item in value.array_value.values:
                self._mask_value(item)
        elif kind == "kvlist_value":
            self._mask_attributes(value.kvlist_value.values)


def _without_tenant(key: str, metadata: AnyValue) -> str | None:
    """Remove the tenant from metadata that is one text; None where that cannot be read."""
    try:
        decoded = json.loads(metadata.string_value)
    except RecursionError:
        return None
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        return None if key == names.TRACE_METADATA else metadata.string_value
    items = cast("dict[str, Any]", decoded).items()
    return json.dumps({key: value for key, value in items if key != TENANT_METADATA_KEY})


def _texts(value: AnyValue) -> list[str]:
    if value.WhichOneof("value") == "array_value":
        return [item.string_value for item in value.array_value.values]
    text = value.string_value
    if not text.startswith("["):
        return [text]
    try:
        return [encodable(str(tag)) for tag in json.loads(text)]
    except (ValueError, RecursionError):
        return [text]


def _key_values(attributes: Mapping[str, str | float | Sequence[str]]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def any_value(value: str | float | Sequence[str]) -> AnyValue:
    """Encode a text, a bool, a number or several texts."""
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):  # before int, of which it is a subclass
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=text) for text in value]))


# --- HTTP ----------------------------------------------------------------------------------------

_TRACES_PATH: Final = "api/public/otel/v1/traces"
_PATH_VARIABLE: Final = "LANGFUSE_OTEL_TRACES_EXPORT_PATH"
_TIMEOUT_SECONDS: Final = 5.0
_MAX_RETRY_AFTER_SECONDS: Final = 60.0
_RETRIABLE: Final = frozenset({408, 425, 429})
_TOO_LARGE: Final = 413
_SERVER_ERROR: Final = 500


class Result(Enum):
    """Result of posting a batch."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Response:
    """Answer of Langfuse to a batch; the reason is for people."""

    result: Result
    reason: str = ""
    retry_after_seconds: float = 0.0


class OtlpHttpClient:
    """Client that posts batches as the Langfuse SDK does, and leaves retries to its caller.

    The SDK's own exporter drops a batch after five seconds and logs every attempt. The transport is
    used without httpx's client because that logs every request.
    """

    def __init__(self, settings: LangfuseSettings) -> None:
        secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
        credentials = base64.b64encode(f"{settings.public_key}:{secret}".encode()).decode()
        path = os.environ.get(_PATH_VARIABLE) or _TRACES_PATH
        self._url = f"{settings.base_url.rstrip('/')}/{path.lstrip('/')}"
        # The same headers as the SDK's exporter (T44).
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Encoding": "gzip",
            "Content-Type": "application/x-protobuf",
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": version("langfuse"),
            "x-langfuse-public-key": settings.public_key or "",
            "x-langfuse-ingestion-version": "4",
        }
        self._transport = httpx.HTTPTransport(proxy=_proxy(self._url))
        self._timeout = httpx.Timeout(_TIMEOUT_SECONDS).as_dict()

    def post(self, body: bytes) -> Response:
        """Post an OTLP request, which is not compressed yet."""
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=gzip.compress(body, compresslevel=1),
            extensions={"timeout": self._timeout},
        )
        try:
            response = self._transport.handle_request(request)
            try:
                # Read in any case, so that the connection can be used again.
                text = response.read()[:200].decode("utf-8", "replace")
            finally:
                response.close()
        except httpx.HTTPError as error:
            return Response(Result.RETRY, f"{type(error).__name__}: {error}")
        if response.is_success:
            return Response(Result.ACCEPTED)
        status, reason = response.status_code, f"Langfuse answered {response.status_code} {text!r}"
        if status == _TOO_LARGE:
            return Response(Result.TOO_LARGE, reason)
        if status >= _SERVER_ERROR or status in _RETRIABLE:
            # Capped: a wrong date in the answer must not stop the exporter for hours.
            pause = min(_seconds(response.headers.get("Retry-After", "")), _MAX_RETRY_AFTER_SECONDS)
            return Response(Result.RETRY, reason, max(0.0, pause))
        return Response(Result.REJECTED, reason)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _seconds(retry_after: str) -> float:
    """Read the header, which has a number of seconds or a date."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    # Only httpx's client reads the proxies of the environment, and it is not used here.
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
