"""One batch of spans to Langfuse, over OTLP/HTTP."""

import base64
import gzip
import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from orkestra.config import LangfuseSettings

_PATH: Final = "api/public/otel/v1/traces"
_PATH_VARIABLE: Final = "LANGFUSE_OTEL_TRACES_EXPORT_PATH"
_TIMEOUT_SECONDS: Final = 5.0
_LONGEST_RETRY_AFTER: Final = 60.0
_TRANSIENT: Final = frozenset({408, 425, 429})
_TOO_LARGE: Final = 413
_SUCCESS: Final = range(200, 300)
_SERVER_ERROR: Final = 500


class Answer(Enum):
    """What became of a batch."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    TRY_AGAIN = "try_again"


@dataclass(frozen=True, slots=True)
class Reply:
    """What Langfuse said.

    Attributes:
        answer: What became of the batch.
        why: In words.
        retry_after: Seconds in which Langfuse does not want to be asked again.
    """

    answer: Answer
    why: str = ""
    retry_after: float = 0.0


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
            "x-langfuse-sdk-version": version("langfuse"),
            "x-langfuse-public-key": settings.public_key or "",
            "x-langfuse-ingestion-version": "4",
        }
        self._transport = httpx.HTTPTransport(proxy=_proxy(self._url))
        self._timeout = httpx.Timeout(_TIMEOUT_SECONDS).as_dict()

    def post(self, body: bytes) -> Reply:
        """Post a request.

        Args:
            body: The protobuf, not compressed.
        """
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=gzip.compress(body, compresslevel=1),
            extensions={"timeout": self._timeout},
        )
        try:
            response = self._transport.handle_request(request)
            try:
                text = response.read()[:200].decode("utf-8", "replace")
            finally:
                response.close()
        except httpx.HTTPError as error:
            return Reply(Answer.TRY_AGAIN, f"{type(error).__name__}: {error}")
        return _reply(response, text)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _reply(response: httpx.Response, text: str) -> Reply:
    status = response.status_code
    if status in _SUCCESS:
        return Reply(Answer.ACCEPTED)
    why = f"Langfuse answered {status} {text!r}"
    if status == _TOO_LARGE:
        return Reply(Answer.TOO_LARGE, why)
    if status >= _SERVER_ERROR or status in _TRANSIENT:
        pause = min(_seconds(response.headers.get("Retry-After", "")), _LONGEST_RETRY_AFTER)
        return Reply(Answer.TRY_AGAIN, why, max(0.0, pause))
    return Reply(Answer.REJECTED, why)


def _seconds(retry_after: str) -> float:
    """The header says a number of seconds, or a date."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
