"""Trace attributes that callers set, and the trace context that the header carries.

The header is plain JSON: `["<trace>","<parent span>",{attributes}]`. Ids are base64url without
padding and empty attributes are left out, because every byte is in the history of every activity.
Ids that the receiver computes itself are empty. Anybody may send a header: what is malformed or
reserved is ignored and fails nothing (B21).
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self, TypeGuard, cast

from orkestra.errors import InvalidTraceAttributeError

MAX_ATTRIBUTE_LENGTH: Final = 200
"""Langfuse drops longer values."""

MAX_ATTRIBUTES_BYTES: Final = 8 * 1024
"""Size of all attributes of a trace together: they are in the history of every activity."""

TENANT_TAG_PREFIX: Final = "tenant:"
TENANT_METADATA_KEY: Final = "tenant_id"
TRACE_METADATA_KEYS: Final = ("workflow_type", "workflow_id", "run_id", "namespace", "task_queue")
_RESERVED_METADATA: Final = frozenset({TENANT_METADATA_KEY, *TRACE_METADATA_KEYS})

_DIGEST_LENGTH: Final = 16

MetadataValue = str | int | float | bool
_NO_METADATA: Final[Mapping[str, MetadataValue]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAttributes:
    """Attributes of a trace that its caller sets.

    Attributes:
        user_id: User for whom the work is done.
        session_id: Group of traces, for instance of one conversation.
        tags: Labels to filter by.
        metadata: More values to filter by.
    """

    user_id: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = field(default_factory=lambda: _NO_METADATA)

    def __bool__(self) -> bool:
        return bool(self.user_id or self.session_id or self.tags or self.metadata)

    def merged(self, inner: "TraceAttributes") -> "TraceAttributes":
        """Lay an inner scope's attributes over these; tags and metadata add up."""
        return TraceAttributes(
            user_id=inner.user_id or self.user_id,
            session_id=inner.session_id or self.session_id,
            tags=tuple(dict.fromkeys((*self.tags, *inner.tags))),
            metadata={**self.metadata, **inner.metadata},
        )


def fitting(value: str) -> str:
    """Return the value if Langfuse keeps it, else its beginning and a hash of all of it."""
    if len(value) <= MAX_ATTRIBUTE_LENGTH:
        return value
    # Two long values with one beginning must not become one user or session.
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{value[: MAX_ATTRIBUTE_LENGTH - _DIGEST_LENGTH - 1]}~{digest}"


_current: ContextVar[TraceAttributes | None] = ContextVar("orkestra_trace_attributes", default=None)


def current_trace_attributes() -> TraceAttributes:
    """Return the attributes for workflows that the running code starts."""
    return _current.get() or TraceAttributes()


@contextmanager
def trace_attributes(
    *,
    user_id: str | None = None,
    session_id: str | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, MetadataValue] | None = None,
) -> Generator[TraceAttributes]:
    """Set attributes of the traces of all workflows that the code inside starts.

    They apply to the whole trace: continuations, children and activities, and the observations
    made inside activities. Scopes nest: an inner user or session wins, tags and metadata add up.

    Args:
        user_id: User for whom the work is done, 1 to 200 characters; shown with the tenant's
            prefix.
        session_id: Group of traces, 1 to 200 characters, shown with the tenant's prefix; without
            one, the workflow's ID is the session.
        tags: Labels of 1 to 200 characters; those beginning with `tenant:` are reserved.
        metadata: Text, numbers and bools of up to 200 characters as JSON; keys that Orkestra sets,
            such as `tenant_id` and `workflow_id`, are reserved.

    All of them together, outer scopes included, take 8 KiB as JSON at most.

    Yields:
        The attributes that are now in effect.

    Raises:
        InvalidTraceAttributeError: A value is too long, of another type, or reserved, or there are
            too many.

    Example:
        ```python
        with trace_attributes(user_id="ada", tags=["vip"]):
            await start_workflow(client, Answer.run, question, task_queue="support", tenant="acme")
        ```
    """
    _check_text("user_id", user_id)
    _check_text("session_id", session_id)
    inner = TraceAttributes(
        user_id=user_id,
        session_id=session_id,
        tags=_checked_tags(tags),
        metadata=_checked_metadata(metadata or {}),
    )
    merged = current_trace_attributes().merged(inner)
    _check_size(merged)
    token = _current.set(merged)
    try:
        yield merged
    finally:
        _current.reset(token)


@contextmanager
def inherited_attributes(attributes: TraceAttributes) -> Generator[None]:
    """Apply the attributes of a caller's trace to the workflows that the code inside starts."""
    # The scope that is already set here is the inner one.
    token = _current.set(attributes.merged(current_trace_attributes()))
    try:
        yield
    finally:
        _current.reset(token)


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not is_text(value):
        shown = repr(value)[:MAX_ATTRIBUTE_LENGTH]
        msg = f"{name} {shown} must be text of 1 to {MAX_ATTRIBUTE_LENGTH} characters"
        raise InvalidTraceAttributeError(msg)


def _check_size(attributes: TraceAttributes) -> None:
    texts = attributes.user_id, attributes.session_id, attributes.tags, dict(attributes.metadata)
    if (size := len(json.dumps(texts))) > MAX_ATTRIBUTES_BYTES:
        msg = (
            f"trace attributes take {size} bytes, more than {MAX_ATTRIBUTES_BYTES}:"
            " set fewer tags and less metadata"
        )
        raise InvalidTraceAttributeError(msg)


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        msg = f"tags {tags[:MAX_ATTRIBUTE_LENGTH]!r} must be a sequence of texts, not one text"
        raise InvalidTraceAttributeError(msg)
    for tag in tags:
        _check_text("tag", tag)
        # Else a caller could put the trace among another tenant's (B21).
        if is_reserved_tag(tag):
            msg = f"tag {tag!r} is reserved: Orkestra sets the tenant's tag itself"
            raise InvalidTraceAttributeError(msg)
    return tuple(tags)


def _checked_metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    for key, value in metadata.items():
        _check_text("metadata key", key)
        if is_reserved_metadata(key):
            msg = f"metadata key {key!r} is reserved: Orkestra sets it itself"
            raise InvalidTraceAttributeError(msg)
        if not is_metadata(value):
            shown = repr(value)[:MAX_ATTRIBUTE_LENGTH]
            msg = (
                f"metadata {key!r} = {shown} must be text, a finite number or a bool"
                f" of up to {MAX_ATTRIBUTE_LENGTH} characters as JSON"
            )
            raise InvalidTraceAttributeError(msg)
    return dict(metadata)


def is_reserved_tag(tag: str) -> bool:
    """Check for the tenant's tag, which callers cannot set (B21)."""
    return tag.strip().lower().startswith(TENANT_TAG_PREFIX)


def is_reserved_metadata(key: str) -> bool:
    """Check for metadata that Orkestra sets, which callers cannot."""
    return key.strip().lower() in _RESERVED_METADATA


def is_text(value: object) -> TypeGuard[str]:
    """Check for a text that Langfuse keeps as an attribute of a trace."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ATTRIBUTE_LENGTH:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_metadata(value: object) -> TypeGuard[MetadataValue]:
    """Check for a value that Langfuse keeps as metadata of a trace."""
    if not isinstance(value, MetadataValue):
        return False
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode()
    except ValueError:
        return False
    return len(written) <= MAX_ATTRIBUTE_LENGTH


_NO_ATTRIBUTES: Final = TraceAttributes()
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_MAX_BYTES: Final = 16 * 1024
_END_OF_TIME_NS: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """Trace context for the receiver of a call.

    Attributes:
        trace_id: The trace, as 32 hexadecimal digits; None means that the receiver computes it.
        span_id: Parent of the receiver's span, as 16 hexadecimal digits.
        attributes: Attributes of the trace.
        start_ns: Start of a local activity's span, in nanoseconds since 1970; only its workflow
            knows it, because no event of the history has it.
    """

    trace_id: str | None = None
    span_id: str | None = None
    attributes: TraceAttributes = field(default_factory=TraceAttributes)
    start_ns: int | None = None

    def encode(self, *, ascii_only: bool = False) -> bytes:
        """Write the header's content.

        Attributes that would make it too long to be read are left out: the ids must arrive.

        Args:
            ascii_only: Whether to escape all other characters.
        """
        trace, span = _pack(self.trace_id), _pack(self.span_id)
        values = _written(self.attributes, self.start_ns)
        if not values:
            return f'["{trace}","{span}"]'.encode()
        # `ascii_only` escapes characters, so the size is measured after encoding.
        content = [trace, span, values]
        written = json.dumps(content, separators=(",", ":"), ensure_ascii=ascii_only).encode()
        if len(written) > _MAX_BYTES:
            return replace(self, attributes=TraceAttributes()).encode()
        return written

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Read a header's content; None where it is malformed."""
        # Before it is parsed, because anybody may send a header (B21).
        if len(data) > _MAX_BYTES:
            return None
        try:
            content = json.loads(data.decode())
            trace, span, *rest = content
            values = _mapping(rest[0]) if rest else {}
            attributes, start_ns = _read(values), _time(values.get("t"))
            trace_id, span_id = _unpack(trace, _TRACE_ID_BYTES), _unpack(span, _SPAN_ID_BYTES)
        except (ValueError, TypeError, RecursionError, binascii.Error):
            return None
        # A text or an object unpacks as well as a list does, and a parent needs its trace.
        if not isinstance(content, list) or (span_id and not trace_id):
            return None
        return cls(trace_id=trace_id, span_id=span_id, attributes=attributes, start_ns=start_ns)


@dataclass(frozen=True, slots=True)
class Caller:
    """Span that the running code is in; a workflow that does not join its trace links to it."""

    trace_id: str
    span_id: str
    is_joined: bool = True


def _pack(hexadecimal: str | None) -> str:
    if hexadecimal is None:
        return ""
    packed = binascii.b2a_base64(bytes.fromhex(hexadecimal), newline=False)
    return packed.translate(_URL_SAFE, b"=").decode()


def _unpack(packed: object, length: int) -> str | None:
    if packed == "":
        return None
    if not isinstance(packed, str):
        raise TypeError
    unpacked = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    # OpenTelemetry takes an id of zeros for none.
    if len(unpacked) != length or not any(unpacked):
        raise ValueError
    return unpacked.hex()


def _written(attributes: TraceAttributes, start_ns: int | None) -> dict[str, Any]:
    if not attributes and not start_ns:
        return {}
    values: dict[str, Any] = {
        "u": attributes.user_id,
        "s": attributes.session_id,
        "g": list(attributes.tags),
        "m": dict(attributes.metadata),
        "t": start_ns,
    }
    return {key: value for key, value in values.items() if value}


def _read(values: dict[str, object]) -> TraceAttributes:
    """Keep the attributes that `trace_attributes()` would have accepted."""
    if not values:
        return _NO_ATTRIBUTES
    tags, metadata = values.get("g", []), _mapping(values.get("m", {}))
    if not isinstance(tags, list):
        raise TypeError
    user, session = values.get("u"), values.get("s")
    return TraceAttributes(
        user_id=user if is_text(user) else None,
        session_id=session if is_text(session) else None,
        tags=tuple(
            tag for tag in cast("list[object]", tags) if is_text(tag) and not is_reserved_tag(tag)
        ),
        metadata={
            key: value
            for key, value in metadata.items()
            if is_text(key) and not is_reserved_metadata(key) and is_metadata(value)
        },
    )


def _time(value: object) -> int | None:
    is_time = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _END_OF_TIME_NS
    return cast("int", value) if is_time else None


def _mapping(content: object) -> dict[str, object]:
    if not isinstance(content, dict):
        raise TypeError
    return cast("dict[str, object]", content)
