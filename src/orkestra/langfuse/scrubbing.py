"""Masks what others put on spans: observations that the Langfuse SDK or a library made.

The SDK's own `mask` sees inputs, outputs and metadata only, each whole. Names, status messages,
exceptions, the attributes of other libraries and every other text are masked here, just before they
are sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from langfuse import LangfuseOtelSpanAttributes as Names
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from orkestra.langfuse.masking import Masker

OURS: Final = "orkestra"
"""Attribute of the instrumentation scope of spans that were masked when they were made."""

_TECHNICAL: Final = frozenset(
    {
        Names.AS_ROOT,
        Names.ENVIRONMENT,
        Names.IS_APP_ROOT,
        Names.OBSERVATION_COMPLETION_START_TIME,
        Names.OBSERVATION_LEVEL,
        Names.OBSERVATION_TYPE,
        Names.OBSERVATION_USAGE_DETAILS,
        Names.OBSERVATION_COST_DETAILS,
        Names.RELEASE,
    }
)


class Scrubber:
    """Masks spans that are not ours."""

    def __init__(self, masker: Masker) -> None:
        """Mask by the masker."""
        self._masker = masker

    def scrubbed(self, span: ReadableSpan) -> ReadableSpan:
        """The span as it may leave."""
        if not self._masker.is_on or is_ours(span):
            return span
        status = span.status
        message = status.description and self._masker.text(status.description)
        return ReadableSpan(
            name=self._masker.text(span.name),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._attributes(span.attributes or {}),
            events=[self._event(event) for event in span.events],
            links=span.links,
            kind=span.kind,
            status=Status(status.status_code, message),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _event(self, event: Event) -> Event:
        attributes = self._attributes(event.attributes or {})
        return Event(self._masker.text(event.name), attributes, event.timestamp)

    def _attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._attribute(key, value) for key, value in attributes.items()}

    def _attribute(self, key: str, value: object) -> object:
        if key in _TECHNICAL:
            return value
        if isinstance(value, str):
            return self._masker.text(value)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            items = cast("Sequence[object]", value)
            return [self._masker.text(item) if isinstance(item, str) else item for item in items]
        return value


def is_ours(span: ReadableSpan) -> bool:
    """Whether Orkestra made the span."""
    scope = span.instrumentation_scope
    return scope is not None and bool((scope.attributes or {}).get(OURS))
