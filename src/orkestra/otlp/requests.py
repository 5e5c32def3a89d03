"""What a Langfuse asks of a request that brings spans."""

import base64
import hmac
import zlib
from typing import Final

from google.protobuf.message import DecodeError

from orkestra.otlp.spans import ReceivedSpan, decode_spans

TRACES_PATH: Final = "/api/public/otel/v1/traces"
"""Where Langfuse takes spans, below its base URL."""

_PROTOBUF: Final = ("application/x-protobuf", "application/protobuf")
_GZIP: Final = 16 + zlib.MAX_WBITS
_LARGEST: Final = 256 * 1024 * 1024


class InvalidSpansError(ValueError):
    """The body of a request is not what its headers say, or no OTLP."""


def is_authorized(authorization: str | None, *, public_key: str, secret_key: str) -> bool:
    """Whether the header of that name carries the keys of a project.

    Args:
        authorization: The header's value.
        public_key: The project's public key.
        secret_key: Its secret key.
    """
    expected = b"Basic " + base64.b64encode(f"{public_key}:{secret_key}".encode())
    return hmac.compare_digest((authorization or "").encode(), expected)


def decode_request(
    body: bytes, *, content_type: str, encoding: str | None, largest: int = _LARGEST
) -> tuple[bytes, list[ReceivedSpan]]:
    """Read the spans of a request.

    Args:
        body: The body as it came.
        content_type: Its media type.
        encoding: Its content encoding.
        largest: How many bytes it may have once it is decompressed.

    Returns:
        The body, decompressed, and its spans.

    Raises:
        InvalidSpansError: It is no protobuf by its type, or cannot be decoded.
    """
    if content_type.partition(";")[0].strip().lower() not in _PROTOBUF:
        msg = "Invalid content type"
        raise InvalidSpansError(msg)
    try:
        plain = _decompressed(body, largest) if encoding == "gzip" else body
        return plain, decode_spans(plain)
    except (zlib.error, DecodeError) as error:
        msg = "Failed to parse OTel request"
        raise InvalidSpansError(msg) from error


def _decompressed(body: bytes, largest: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    plain = stream.decompress(body, largest)
    if not stream.eof:
        msg = "cut off, or too large"
        raise zlib.error(msg)
    return plain
