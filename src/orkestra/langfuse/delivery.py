"""One batch of spans to Langfuse, over OTLP/HTTP."""

import base64
import gzip
import os
from collections.abc import Sequence
from enum import Enum
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from langfuse import __version__ as langfuse_version
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from orkestra.config import LangfuseSettings

_PATH: Final = "api/public/otel/v1/traces"
_PATH_VARIABLE: Final = "LANGFUSE_OTEL_TRACES_EXPORT_PATH"
_TIMEOUT_SECONDS: Final = 5.0
_TRANSIENT: Final = frozenset({408, 425, 429})
_SUCCESS: Final = range(200, 300)
_SERVER_ERROR: Final = 500


class Answer(Enum):
    """What became of a batch."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    TRY_AGAIN = "try_again"


class Delivery:
    """Posts batches as the Langfuse SDK would, but leaves it to the caller when to try again.

    The SDK's exporter drops a batch after five seconds and logs every attempt. The transport is
    used without httpx's client because that logs every request.
    """

    def __init__(self, settings: LangfuseSettings) -> None:
        """Post to the project of the settings."""
        secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
        credentials = base64.b64encode(f"{settings.public_key}:{secret}".encode()).decode()
        path = os.environ.get(_PATH_VARIABLE) or _PATH
        self._url = f"{settings.base_url.rstrip('/')}/{path.lstrip('/')}"
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Encoding": "gzip",
            "Content-Type": "application/x-protobuf",
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": langfuse_version,
            "x-langfuse-public-key": settings.public_key or "",
            "x-langfuse-ingestion-version": "4",
        }
        self._transport = httpx.HTTPTransport(proxy=_proxy(self._url))
        self._timeout = httpx.Timeout(_TIMEOUT_SECONDS).as_dict()

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """A batch as it goes over the wire; whatever the encoder raises is raised."""
        return gzip.compress(encode_spans(spans).SerializeToString(), compresslevel=5)

    def post(self, body: bytes) -> tuple[Answer, str]:
        """Post an encoded batch.

        Returns:
            What became of it, and why.
        """
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=body,
            extensions={"timeout": self._timeout},
        )
        try:
            response = self._transport.handle_request(request)
            try:
                text = response.read()[:200].decode("utf-8", "replace")
            finally:
                response.close()
        except httpx.HTTPError as error:
            return Answer.TRY_AGAIN, f"{type(error).__name__}: {error}"
        status = response.status_code
        if status in _SUCCESS:
            return Answer.ACCEPTED, ""
        is_transient = status >= _SERVER_ERROR or status in _TRANSIENT
        why = f"Langfuse answered {status} {text!r}"
        return (Answer.TRY_AGAIN if is_transient else Answer.REJECTED), why

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
