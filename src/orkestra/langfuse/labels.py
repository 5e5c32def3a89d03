"""Masks what others put on spans, and sees that it names no other tenant.

The SDK's own `mask` sees inputs, outputs and metadata only, each whole. Everything that is text is
masked here, just before it is sent: names, status messages, exceptions, the attributes of other
libraries. Users, sessions and tags are labels that people filter by: code that acts for one tenant
must not be able to put its observations among another's, where tenants share a project.
"""

import json
from collections.abc import Iterable
from typing import Any, Final, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from orkestra.langfuse import names
from orkestra.langfuse.items import Observed
from orkestra.langfuse.masking import Masker, cleaned
from orkestra.langfuse.otlp import value_of
from orkestra.tenancy import scope_id
from orkestra.tracing import fitting

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
