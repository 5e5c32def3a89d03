"""A span as a row of the database."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from orkestra.otlp import ReceivedSpan

COLUMNS: Final = (
    "trace_id",
    "span_id",
    "parent_id",
    "is_root",
    "name",
    "type",
    "level",
    "tenant",
    "workflow_type",
    "trace_name",
    "session_id",
    "user_id",
    "environment",
    "start_ns",
    "end_ns",
    "model",
    "tokens_in",
    "tokens_out",
    "cost",
    "attempt",
    "size",
    "message",
    "input",
    "output",
    "attributes",
    "events",
)
"""The columns of a span, the large ones last: what only counts need not read them."""

_O: Final = "langfuse.observation."
_SHOWN_APART: Final = frozenset({f"{_O}input", f"{_O}output", f"{_O}status_message"})
_GENERATIONS: Final = frozenset({"generation", "embedding"})
_ERROR: Final = 2
_LAST: Final = 2**63 - 1


def row_of(span: ReceivedSpan) -> tuple[Any, ...]:
    """The span's values in the order of `COLUMNS`."""
    given = span.attributes
    model = given.get(f"{_O}model.name") or given.get("gen_ai.request.model")
    tokens_in, tokens_out = _tokens(given)
    shown = {key: _plain(value) for key, value in given.items() if key not in _SHOWN_APART}
    attributes = json.dumps(shown, ensure_ascii=False)
    message = span.status_message or span.status_text or None
    texts = [_text(given.get(f"{_O}{name}")) for name in ("input", "output")]
    size = sum(len(text or "") for text in (span.name, attributes, message, *texts))
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.parent_id is None or span.is_app_root,
        span.name,
        _type(span, model),
        "ERROR" if span.status_code == _ERROR else span.level,
        tenant_of(span),
        _optional(span.metadata.get("workflow_type")),
        _optional(given.get("langfuse.trace.name")),
        _optional(span.session_id),
        _optional(span.user_id),
        _optional(given.get("langfuse.environment")),
        min(span.start_ns, _LAST),
        min(max(span.end_ns, span.start_ns), _LAST),
        _optional(model),
        tokens_in,
        tokens_out,
        _number(_mapping(given.get(f"{_O}cost_details")).get("total")),
        _count(span.metadata.get("attempt")),
        size,
        message and str(message),
        *texts,
        attributes,
        json.dumps(span.events, ensure_ascii=False),
    )


def tenant_of(span: ReceivedSpan) -> str | None:
    """The tenant that a span names, in a tag or in metadata."""
    for tag in span.tags:
        if str(tag).startswith("tenant:"):
            return str(tag).removeprefix("tenant:")
    return _optional(span.trace_metadata.get("tenant_id", span.metadata.get("tenant_id")))


def _type(span: ReceivedSpan, model: object) -> str:
    kind = str(span.type or "span").lower()
    return "generation" if model and kind not in _GENERATIONS else kind


def _tokens(given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """By Langfuse's attributes, else by OpenTelemetry's; parts such as `input_cached` add up."""
    usage = _mapping(given.get(f"{_O}usage_details"))
    if not usage:
        names = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
        into, out = (_count(given.get(name)) for name in names)
        return into, out
    into, out = (
        _sum(_count(value) for key, value in usage.items() if key.startswith(side))
        for side in ("input", "output")
    )
    return into, out


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return min(sum(known), _LAST) if known else None


def _mapping(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else min(int(number), _LAST)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _LAST else None


def _text(value: object) -> str | None:
    """Inputs and outputs come as text, of JSON mostly."""
    if isinstance(value, str):
        return _readable(value) if "\\u" in value else value
    return None if value is None else json.dumps(_plain(value), ensure_ascii=False)


def _readable(text: str) -> str:
    """JSON without its escapes, so that what people search for is found."""
    try:
        readable = json.dumps(json.loads(text), ensure_ascii=False)
        readable.encode()
    except (ValueError, RecursionError):
        return text
    return readable


def _optional(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _plain(value: object) -> Any:
    """The value as JSON can have it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        return {key: _plain(item) for key, item in mapping.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    return value
