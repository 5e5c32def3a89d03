"""What travels in the trace header: `["<trace>","<parent span>",{attributes}]` in plain JSON.

The ids are base64url without padding and the attributes are left out where there are none, because
every byte stands in the history of every activity. Ids that the receiver computes itself are empty
texts. What cannot be read is ignored: a header from elsewhere must not fail anything.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeGuard, cast

from orkestra.tracing.attributes import (
    TraceAttributes,
    is_metadata,
    is_reserved_metadata,
    is_reserved_tag,
    is_text,
)

_NO_ATTRIBUTES: Final = TraceAttributes()
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_MAX_BYTES: Final = 16 * 1024
_END_OF_TIME_NS: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """Where in a trace the receiver stands.

    Attributes:
        trace_id: The trace, as 32 hexadecimal digits; None means that the receiver computes it.
        span_id: The span that the receiver's hangs under, as 16 hexadecimal digits.
        attributes: Attributes of the trace.
        start_ns: When the receiver's span begins, where the sender says so: a local activity's,
            whose header is not in the history.
    """

    trace_id: str | None = None
    span_id: str | None = None
    attributes: TraceAttributes = field(default_factory=TraceAttributes)
    start_ns: int | None = None

    def encode(self, *, ascii_only: bool = False) -> bytes:
        """The header's content, escaped for protocols whose headers are ASCII if need be.

        Attributes that would make it too long to be read are left out: the ids must arrive.
        """
        trace, span = _pack(self.trace_id), _pack(self.span_id)
        values = _written(self.attributes, self.start_ns)
        if not values:
            return f'["{trace}","{span}"]'.encode()
        content = [trace, span, values]
        written = json.dumps(content, separators=(",", ":"), ensure_ascii=ascii_only).encode()
        if len(written) > _MAX_BYTES:
            return replace(self, attributes=TraceAttributes()).encode()
        return written

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Read a header's content.

        Args:
            data: What `encode()` made, or anything else.

        Returns:
            What it says; None where it cannot be read.
        """
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
        if not isinstance(content, list) or (span_id and not trace_id):
            return None
        return cls(trace_id=trace_id, span_id=span_id, attributes=attributes, start_ns=start_ns)


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
    """Keep what `trace_attributes()` would have let through."""
    if not values:
        return _NO_ATTRIBUTES
    tags, metadata = values.get("g", []), _mapping(values.get("m", {}))
    if not isinstance(tags, list):
        raise TypeError
    user, session = values.get("u"), values.get("s")
    return TraceAttributes(
        user_id=user if is_text(user) else None,
        session_id=session if is_text(session) else None,
        tags=tuple(tag for tag in cast("list[object]", tags) if _is_free(tag)),
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


def _is_free(tag: object) -> TypeGuard[str]:
    return is_text(tag) and not is_reserved_tag(tag)
