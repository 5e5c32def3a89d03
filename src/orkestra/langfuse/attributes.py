"""A span in Langfuse's attributes, masked.

The settings' `mask` sees each value whole, and then each text in what it returned, so that a mask
that looks for keys and one that only knows texts both work. What is cut loses a margin beyond the
cut as well: a secret that the cut has halved no longer looks like one.

Nothing here imports OpenTelemetry or Langfuse, because spans are accepted before these are loaded.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.tracing import (
    TENANT_METADATA_KEY,
    TENANT_TAG_PREFIX,
    TRACE_METADATA_KEYS,
    Captured,
    FinishedSpan,
    Json,
    Level,
    MetadataValue,
    Outcome,
    Span,
)

Attributes = dict[str, str | float | list[str]]

HIDDEN: Final = "<hidden: the mask failed>"
"""Replacement of a value on which the mask raised."""

MARGIN_BYTES: Final = 512
"""Length of the longest secret that a cut may halve."""

_OBSERVATION_TYPES: Final[Mapping[str, str]] = {"workflow": "chain", "activity": "tool"}
_CUT: Final = "… (cut)"
_CACHE_SIZE: Final = 1024
_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_SPACED: Final = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class ThirdPartySpans:
    """OTLP request with spans of the Langfuse SDK or an instrumentation, made for the tenant."""

    tenant: str | None
    request: bytes
    count: int


class SpanReceiver(Protocol):
    """Destination of third-party spans: a sink, or a collector in the child of a process pool."""

    @property
    def public_key(self) -> str:
        """Key of the project that they go to."""
        ...

    def receive(self, spans: ThirdPartySpans) -> None:
        """Accept spans; never blocks and never raises."""
        ...


Route = Callable[[str | None], SpanReceiver | None]
"""Finds the destination of a tenant's spans; None where that is not known, and they are dropped."""


class SpanAttributes:
    """Writer of Langfuse's attributes for Orkestra's own spans."""

    def __init__(self, settings: LangfuseSettings, masker: "Masker") -> None:
        self._settings = settings
        self._masker = masker
        known = {
            names.ENVIRONMENT: settings.environment,
            names.RELEASE: settings.release,
            names.VERSION: settings.version,
        }
        self._of_project: Attributes = {k: v for k, v in known.items() if v is not None}
        # Cached on the instance, because the answer depends on its settings.
        self._is_hidden = lru_cache(_CACHE_SIZE)(self._matches_hidden)

    def name(self, finished: FinishedSpan) -> str:
        """Return the span's name."""
        return self._masker.text(finished.name or finished.span.name)

    def error_message(self, outcome: Outcome) -> str | None:
        """Return the message of an error; None where the outcome is none."""
        return (self._message(outcome) or "") if outcome.level is Level.ERROR else None

    def of_span(self, finished: FinishedSpan) -> Attributes:
        """Write everything else that is known of a span."""
        span, outcome = finished.span, finished.outcome
        found: Attributes = {names.TYPE: _OBSERVATION_TYPES.get(span.kind, "span")}
        if not self._is_hidden(span.kind, span.name):
            for name, captured in ((names.INPUT, span.input), (names.OUTPUT, outcome.output)):
                if captured is not None:
                    limit = self._settings.max_value_bytes
                    found[name] = self._masker.rendered(captured, limit)
        found |= self._metadata(names.METADATA, {**span.metadata, **outcome.metadata})
        if outcome.level is not Level.DEFAULT:
            found[names.LEVEL] = outcome.level.value
        if (message := self._message(outcome)) is not None:
            found[names.STATUS_MESSAGE] = message
        # May replace what is above, but not the labels of the trace, which come last (B21).
        found |= self._added(finished.added)
        # More than one root breaks Langfuse's filters and evaluations (T47).
        if span.parent_id is None:
            found[names.IS_APP_ROOT] = True
        return found | self.of_trace(span)

    def of_trace(self, span: Span) -> Attributes:
        """Write the attributes that every span of the trace has, third-party spans included."""
        mask, attributes = self._masker.text, span.attributes
        found = self._of_project.copy()
        if attributes.user_id is not None:
            found[names.TRACE_USER] = mask(attributes.user_id)
        if attributes.session_id is not None:
            found[names.TRACE_SESSION] = mask(attributes.session_id)
        tenant_tag = () if span.tenant is None else (f"{TENANT_TAG_PREFIX}{span.tenant}",)
        if tags := [mask(tag) for tag in (*tenant_tag, *attributes.tags)]:
            found[names.TRACE_TAGS] = tags
        metadata = {mask(key): value for key, value in attributes.metadata.items()}
        # After the caller's metadata, so that it cannot be replaced (B21).
        if span.tenant is not None:
            metadata[TENANT_METADATA_KEY] = span.tenant
        if span.parent_id is None:
            metadata |= {k: span.metadata[k] for k in TRACE_METADATA_KEYS if k in span.metadata}
        return found | self._metadata(names.TRACE_METADATA, metadata)

    def _message(self, outcome: Outcome) -> str | None:
        if outcome.message is None:
            return None
        return self._masker.rendered(outcome.message, self._settings.max_value_bytes)

    def _metadata(self, prefix: str, metadata: Mapping[str, MetadataValue]) -> Attributes:
        """Write metadata, whose values Langfuse decodes from JSON."""
        if not self._masker.is_on:
            return dict([_entry(prefix, key, value) for key, value in metadata.items()])
        masked = self._masker.value
        return {f"{prefix}.{key}": _spaced_json(masked(value)) for key, value in metadata.items()}

    def _added(self, added: Mapping[str, object]) -> Attributes:
        """Mask and cut the attributes that an activity's code has set on its span."""
        found: Attributes = {}
        for key, value in added.items():
            if isinstance(value, str):
                text = self._masker.json_text(value)
                found[self._masker.key(key)] = _cut(
                    text, self._settings.max_value_bytes, is_cut=False
                )
            elif isinstance(value, bool | int | float):
                found[self._masker.key(key)] = value
        return found

    def _matches_hidden(self, kind: str, name: str) -> bool:
        return any(
            fnmatchcase(name, pattern) or pattern == kind
            for pattern in self._settings.capture_except
        )


# `typed`, because 1, 1.0 and True are one key else.
@lru_cache(_CACHE_SIZE, typed=True)
def _entry(prefix: str, key: str, value: MetadataValue) -> tuple[str, str]:
    return f"{prefix}.{key}", _spaced_json(value)


class Masker:
    """The mask of the settings, `mask(data=value)`; None leaves everything as it is."""

    def __init__(self, mask: Callable[..., Any] | None) -> None:
        self._mask = mask
        self.is_on: Final = mask is not None

    def value(self, value: Json) -> Json:
        """Mask a value; it is hidden where the mask raises."""
        if self._mask is None:
            return value
        try:
            return cast("Json", self._leaves(self._mask(data=value)))
        except Exception:  # noqa: BLE001 - whatever a mask raises, the value must not leave
            return HIDDEN

    def text(self, text: str) -> str:
        """Mask a text, which remains a text."""
        if self._mask is None:
            return encodable(text)
        try:
            return encodable(str(self._mask(data=text)))
        except Exception:  # noqa: BLE001 - as above
            return HIDDEN

    def rendered(self, captured: Captured, max_bytes: int) -> str:
        """Mask a snapshot, write it as JSON unless it is a text, and cut it.

        Args:
            captured: The snapshot.
            max_bytes: Size limit in bytes of UTF-8.
        """
        value = self.value(captured.value)
        try:
            text = value if isinstance(value, str) else _COMPACT.encode(value)
        except (TypeError, ValueError, RecursionError):
            text = HIDDEN
        return _cut(encodable(text), max_bytes, is_cut=captured.is_cut and text != HIDDEN)

    def json_text(self, text: str) -> str:
        """Mask a text: as a value where it is JSON, else as a text."""
        if self._mask is None or not text.lstrip().startswith(("{", "[", '"')):
            return self.text(text)
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        value = self.value(decoded)
        return HIDDEN if value == HIDDEN else encodable(_COMPACT.encode(value))

    def key(self, key: str) -> str:
        """Mask the name of an attribute, except for the part by which Langfuse knows it."""
        for prefix in names.METADATA_PREFIXES:
            if key.startswith(prefix):
                return prefix + self.text(key.removeprefix(prefix))
        is_known = key.startswith("langfuse.") or key in names.USERS | names.SESSIONS | names.TAGS
        return key if is_known else self.text(key)

    def _leaves(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.json_text(value)
        if isinstance(value, dict):
            items = cast("Any", value).items()
            return {self._leaves(key): self._leaves(item) for key, item in items}
        if isinstance(value, list | tuple):
            return [self._leaves(item) for item in cast("list[Any]", value)]
        return value


def encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _spaced_json(value: object) -> str:
    return encodable(_SPACED.encode(value))


def _cut(text: str, max_bytes: int, *, is_cut: bool) -> str:
    if not is_cut and text.isascii() and len(text) <= max_bytes:
        return text
    encoded = text.encode()
    if not is_cut and len(encoded) <= max_bytes:
        return text
    # Where the snapshot itself was cut, the cut is at the end of the text, closing brackets aside.
    length = len(encoded) - MARGIN_BYTES if is_cut else len(encoded)
    kept = max(0, min(length, max_bytes - len(_CUT.encode())))
    return encoded[:kept].decode("utf-8", "ignore") + _CUT
