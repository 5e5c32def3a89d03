"""What is handed to a project to be sent.

Langfuse's attributes for a span of ours. Everything is masked before it becomes one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Protocol

from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse.mask import Masker, cleaned
from orkestra.tracing import Captured, Level, MetadataValue, Outcome, Span, SpanRecord


@dataclass(frozen=True, slots=True)
class Ended:
    """A span of ours.

    Attributes:
        record: The span.
        added: Attributes that the code inside put on it, by their names in Langfuse.
        name: The name that the code inside gave it.
    """

    record: SpanRecord
    added: Mapping[str, object] = field(default_factory=dict[str, object])
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Spans that others made: observations of the Langfuse SDK or of an instrumentation.

    Attributes:
        tenant: For whom the code acted that made them.
        request: The spans as an OTLP request.
        spans: How many they are.
    """

    tenant: str | None
    request: bytes
    spans: int


class Taker(Protocol):
    """Takes spans that others made."""

    @property
    def public_key(self) -> str:
        """Key of the project that they go to."""
        ...

    def take(self, observed: Observed) -> None:
        """Take them; never blocks and never raises."""
        ...


Attributes = dict[str, str | float | list[str]]

_TYPES: Final[Mapping[str, str]] = {"workflow": "chain", "activity": "tool"}
_PLAIN: Final = "span"
_OF_TRACE: Final = ("workflow_type", "workflow_id", "run_id", "namespace", "task_queue")
_REMEMBERED_NAMES: Final = 1024
_REMEMBERED_ENTRIES: Final = 1024
_WRITER: Final = json.JSONEncoder(ensure_ascii=False, default=str)


class Describer:
    """Says in Langfuse's attributes what a span is and how it ended."""

    def __init__(self, settings: LangfuseSettings, masker: Masker) -> None:
        """Describe by the settings."""
        self._settings = settings
        self._masker = masker
        self._of_project: Attributes = {
            name: value
            for name, value in (
                (names.ENVIRONMENT, settings.environment),
                (names.RELEASE, settings.release),
                (names.VERSION, settings.version),
            )
            if value is not None
        }
        self._is_hidden = lru_cache(_REMEMBERED_NAMES)(self._matches_hidden)

    def name(self, ended: Ended) -> str:
        """The span's name."""
        return self._masker.text(ended.name or ended.record.span.name)

    def failure(self, outcome: Outcome) -> str | None:
        """The message of what counts as an error; None where nothing does."""
        return (self._message(outcome) or "") if outcome.level is Level.ERROR else None

    def attributes(self, ended: Ended) -> Attributes:
        """Everything else that is known of the span."""
        span, outcome = ended.record.span, ended.record.outcome
        found: Attributes = {names.TYPE: _TYPES.get(span.kind, _PLAIN)}
        if not self._is_hidden(span.kind, span.name):
            found |= self._value(names.INPUT, span.input)
            found |= self._value(names.OUTPUT, outcome.output)
        found |= self._metadata(names.METADATA, {**span.metadata, **outcome.metadata})
        if outcome.level is not Level.DEFAULT:
            found[names.LEVEL] = outcome.level.value
        if (message := self._message(outcome)) is not None:
            found[names.STATUS_MESSAGE] = message
        found |= self._added(ended.added)
        if span.parent_id is None:
            found[names.IS_APP_ROOT] = True
        return found | self.of_trace(span)

    def of_trace(self, span: Span) -> Attributes:
        """What every span of the trace carries, those that others make among them."""
        mask, attributes = self._masker.text, span.attributes
        found = self._of_project.copy()
        if attributes.user_id is not None:
            found[names.TRACE_USER] = mask(attributes.user_id)
        if attributes.session_id is not None:
            found[names.TRACE_SESSION] = mask(attributes.session_id)
        ours = () if span.tenant is None else (f"tenant:{span.tenant}",)
        if tags := [mask(tag) for tag in (*ours, *attributes.tags)]:
            found[names.TRACE_TAGS] = tags
        metadata = {mask(key): value for key, value in attributes.metadata.items()}
        if span.tenant is not None:
            metadata["tenant_id"] = span.tenant
        if span.parent_id is None:
            metadata |= {key: span.metadata[key] for key in _OF_TRACE if key in span.metadata}
        return found | self._metadata(names.TRACE_METADATA, metadata)

    def _message(self, outcome: Outcome) -> str | None:
        if outcome.message is None:
            return None
        return self._masker.rendered(outcome.message, self._settings.max_value_bytes)

    def _value(self, name: str, captured: Captured | None) -> Attributes:
        if captured is None:
            return {}
        return {name: self._masker.rendered(captured, self._settings.max_value_bytes)}

    def _metadata(self, prefix: str, metadata: Mapping[str, MetadataValue]) -> Attributes:
        """Langfuse decodes metadata values from JSON."""
        if not self._masker.is_on:
            return dict([_entry(prefix, key, value) for key, value in metadata.items()])
        masked = self._masker.value
        return {f"{prefix}.{key}": _json(masked(value)) for key, value in metadata.items()}

    def _added(self, added: Mapping[str, object]) -> Attributes:
        """What the code inside put on its span, masked and cut as ours is."""
        limit = self._settings.max_value_bytes
        found: Attributes = {}
        for key, value in added.items():
            if isinstance(value, str):
                text = self._masker.written(value)
                found[self._masker.key(key)] = self._masker.cut(text, limit)
            elif isinstance(value, bool | int | float):
                found[self._masker.key(key)] = value
        return found

    def _matches_hidden(self, kind: str, name: str) -> bool:
        return any(
            fnmatchcase(name, pattern) or pattern == kind
            for pattern in self._settings.capture_except
        )


@lru_cache(_REMEMBERED_ENTRIES, typed=True)
def _entry(prefix: str, key: str, value: MetadataValue) -> tuple[str, str]:
    """What a worker says of all its spans is written once."""
    return f"{prefix}.{key}", _json(value)


def _json(value: object) -> str:
    return cleaned(_WRITER.encode(value))
