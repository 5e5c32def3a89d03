"""Masks what others put on spans, and sees that it names no other tenant.

The SDK's own `mask` sees inputs, outputs and metadata only, each whole. Everything that is text is
masked here, just before it is sent: names, status messages, exceptions, the attributes of other
libraries. Users, sessions and tags are labels that people filter by: code that acts for one tenant
must not be able to put its observations among another's, where tenants share a project.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from orkestra.langfuse import names
from orkestra.langfuse.items import Observed
from orkestra.langfuse.masking import Masker
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
_TENANT_TAG: Final = "tenant:"
_TENANT_METADATA: Final = f"{names.TRACE_METADATA}.tenant_id"
_SCOPED: Final = frozenset({names.TRACE_USER, names.TRACE_SESSION})


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
                for span in of_scope.spans:
                    self._scrub(span, observed.tenant)
        return request.SerializeToString()

    def _scrub(self, span: Span, tenant: str | None) -> None:
        span.ClearField("trace_state")
        _label(span, tenant)
        if not self._masker.is_on:
            return
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

    def _mask_values(self, attributes: Iterable[KeyValue]) -> None:
        if not self._masker.is_on:
            return
        for attribute in attributes:
            if attribute.key not in _TECHNICAL:
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


def _label(span: Span, tenant: str | None) -> None:
    """Make the labels the tenant's own, whatever the code inside set."""
    kept: list[KeyValue] = []
    tags = [] if tenant is None else [f"{_TENANT_TAG}{tenant}"]
    for attribute in span.attributes:
        key = attribute.key
        if key == names.TRACE_TAGS:
            tags += [tag for tag in _texts(attribute.value) if not _is_reserved(tag)]
        elif key == _TENANT_METADATA:
            continue
        else:
            if key in _SCOPED and tenant is not None:
                own = fitting(scope_id(tenant, attribute.value.string_value))
                attribute.value.string_value = own
            kept.append(KeyValue(key=key, value=attribute.value))
    if tags:
        kept.append(KeyValue(key=names.TRACE_TAGS, value=value_of(list(dict.fromkeys(tags)))))
    if tenant is not None:
        kept.append(KeyValue(key=_TENANT_METADATA, value=value_of(json.dumps(tenant))))
    del span.attributes[:]
    span.attributes.extend(kept)


def _texts(value: AnyValue) -> list[str]:
    if value.WhichOneof("value") == "array_value":
        return [item.string_value for item in value.array_value.values]
    return [value.string_value]


def _is_reserved(tag: Any) -> bool:
    return str(tag).strip().lower().startswith(_TENANT_TAG)
