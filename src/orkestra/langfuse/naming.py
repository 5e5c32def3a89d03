"""Langfuse's attributes for a span of ours. Everything is masked before it becomes one."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from langfuse import LangfuseOtelSpanAttributes as Names

from orkestra.config import LangfuseSettings
from orkestra.langfuse.masking import Masker
from orkestra.tracing import Level, MetadataValue, Outcome, Span, SpanKind

Attributes = dict[str, str | list[str]]

_TYPES: Final[Mapping[SpanKind, str]] = {
    SpanKind.WORKFLOW: "chain",
    SpanKind.ACTIVITY: "tool",
    SpanKind.SIGNAL: "span",
    SpanKind.UPDATE: "span",
}
_OF_TRACE: Final = ("workflow_type", "workflow_id", "run_id", "namespace", "task_queue")


class Describer:
    """Says in Langfuse's attributes what a span is and how it ended."""

    def __init__(self, settings: LangfuseSettings, masker: Masker) -> None:
        """Describe by the settings."""
        self._settings = settings
        self._masker = masker

    @property
    def version(self) -> str | None:
        """Version of what is traced."""
        return self._settings.version

    def name(self, span: Span) -> str:
        """The span's name."""
        return self._masker.text(span.name)

    def at_start(self, span: Span) -> Attributes:
        """What is known when the span begins."""
        found: Attributes = {Names.OBSERVATION_TYPE: _TYPES[span.kind]}
        for name, value in (
            (Names.ENVIRONMENT, self._settings.environment),
            (Names.RELEASE, self._settings.release),
            (Names.VERSION, self._settings.version),
        ):
            if value is not None:
                found[name] = value
        if span.input is not None:
            found[Names.OBSERVATION_INPUT] = self._masker.rendered(
                span.input, self._settings.max_value_bytes
            )
        found |= self._metadata(Names.OBSERVATION_METADATA, span.metadata)
        found |= self._of_trace(span)
        return found

    def at_end(self, outcome: Outcome) -> Attributes:
        """What is known when it has ended."""
        found: Attributes = {}
        if outcome.level is not Level.DEFAULT:
            found[Names.OBSERVATION_LEVEL] = outcome.level.value
        if (message := self.message(outcome)) is not None:
            found[Names.OBSERVATION_STATUS_MESSAGE] = message
        if outcome.output is not None:
            found[Names.OBSERVATION_OUTPUT] = self._masker.rendered(
                outcome.output, self._settings.max_value_bytes
            )
        return found | self._metadata(Names.OBSERVATION_METADATA, outcome.metadata)

    def message(self, outcome: Outcome) -> str | None:
        """What went wrong."""
        if outcome.message is None:
            return None
        return self._masker.rendered(outcome.message, self._settings.max_value_bytes)

    def user(self, span: Span) -> str | None:
        """For whom the work is done."""
        user = span.attributes.user_id
        return None if user is None else self._masker.text(user)

    def session(self, span: Span) -> str | None:
        """What the trace is grouped by."""
        session = span.attributes.session_id
        return None if session is None else self._masker.text(session)

    def tags(self, span: Span) -> list[str]:
        """The tenant's tag and the caller's."""
        ours = [] if span.tenant is None else [f"tenant:{span.tenant}"]
        return [self._masker.text(tag) for tag in (*ours, *span.attributes.tags)]

    def trace_metadata(self, span: Span) -> dict[str, MetadataValue]:
        """Metadata that every observation of the trace carries, not yet masked."""
        metadata = dict(span.attributes.metadata)
        if span.tenant is not None:
            metadata["tenant_id"] = span.tenant
        return metadata

    def masked(self, metadata: Mapping[str, MetadataValue]) -> Iterator[tuple[str, object]]:
        """Metadata as it is sent."""
        for key, value in metadata.items():
            yield key, self._masker.value(value)

    def _of_trace(self, span: Span) -> Attributes:
        found: Attributes = {}
        if (user := self.user(span)) is not None:
            found[Names.TRACE_USER_ID] = user
        if (session := self.session(span)) is not None:
            found[Names.TRACE_SESSION_ID] = session
        if tags := self.tags(span):
            found[Names.TRACE_TAGS] = tags
        metadata = self.trace_metadata(span)
        if span.parent_id is None:
            metadata |= {key: span.metadata[key] for key in _OF_TRACE if key in span.metadata}
        return found | self._metadata(Names.TRACE_METADATA, metadata)

    def _metadata(self, prefix: str, metadata: Mapping[str, MetadataValue]) -> Attributes:
        """Langfuse decodes metadata values from JSON."""
        return {
            f"{prefix}.{key}": json.dumps(value, ensure_ascii=False, default=str)
            for key, value in self.masked(metadata)
        }
