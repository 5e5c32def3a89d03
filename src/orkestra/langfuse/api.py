"""One batch of spans to Langfuse, over OTLP/HTTP.

Which observations of a trace a Langfuse project has already.

Langfuse never merges what it gets twice, so whoever sends spans again must ask first. What was sent
can be asked for about two seconds later.

Whether a Langfuse project can be reached with its keys.
"""

import base64
import gzip
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from orkestra.config import LangfuseSettings
from orkestra.errors import LangfuseUnavailableError

_TRACES_PATH: Final = "api/public/otel/v1/traces"
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
        path = os.environ.get(_PATH_VARIABLE) or _TRACES_PATH
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


_OBSERVATIONS_PATH: Final = "api/public/v2/observations"
_PAGE: Final = 1000
_MAX_PAGES: Final = 1000


async def present_observations(
    settings: LangfuseSettings, trace_id: str, *, timeout: timedelta
) -> frozenset[str]:
    """Ask for the ids of all observations of a trace.

    Args:
        settings: The project, with both keys.
        trace_id: The trace, as 32 hexadecimal digits.
        timeout: How long each step of a request may take.

    Returns:
        The ids, as 16 hexadecimal digits; none where the trace does not exist.

    Raises:
        LangfuseUnavailableError: Langfuse gave no answer, or one that cannot be read.
    """
    secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
    url = f"{settings.base_url.rstrip('/')}/{_OBSERVATIONS_PATH}"
    query: dict[str, str | int] = {"traceId": trace_id, "limit": _PAGE, "fields": "core"}
    found: set[str] = set()
    try:
        async with httpx.AsyncClient(
            timeout=timeout.total_seconds(), auth=(settings.public_key or "", secret)
        ) as client:
            for _ in range(_MAX_PAGES):
                ids, cursor = _read(await client.get(url, params=query))
                found |= ids
                if cursor is None:
                    return frozenset(found)
                if cursor == query.get("cursor"):
                    raise _unavailable(settings, "the same page came twice")
                query["cursor"] = cursor
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = type(error)
        why = str(error) if kind is httpx.HTTPError else f"{kind.__name__} {error}".rstrip()
        raise _unavailable(settings, why) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unavailable(settings, "the answer cannot be read") from error
    raise _unavailable(settings, f"a trace has more than {_PAGE * _MAX_PAGES} observations")


def _read(response: httpx.Response) -> tuple[set[str], str | None]:
    if not response.is_success:
        msg = f"it answered {response.status_code} {response.text[:200]!r}"
        raise httpx.HTTPError(msg)
    content: Any = response.json()
    if type(content["data"]) is not list:
        raise TypeError
    return {str(each["id"]) for each in content["data"]}, content["meta"].get("cursor") or None


def _unavailable(settings: LangfuseSettings, why: str) -> LangfuseUnavailableError:
    return LangfuseUnavailableError(
        f"cannot ask Langfuse at {settings.base_url!r} what it has already: {why}"
    )


_REFUSED = frozenset({401, 403})


async def project_of(settings: LangfuseSettings, *, timeout: timedelta) -> str:
    """Ask Langfuse which project the keys belong to.

    Args:
        settings: With both keys.
        timeout: How long each step of the request may take.

    Returns:
        The project's name.

    Raises:
        PermissionError: Langfuse refuses the keys.
        ConnectionError: Langfuse does not answer, or not as Langfuse does.
    """
    secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
    url = f"{settings.base_url.rstrip('/')}/api/public/projects"
    try:
        async with httpx.AsyncClient(timeout=timeout.total_seconds()) as client:
            answer = await client.get(url, auth=(settings.public_key or "", secret))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        msg = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConnectionError(msg) from error
    if answer.status_code in _REFUSED:
        msg = f"it refuses the keys ({answer.status_code})"
        raise PermissionError(msg)
    try:
        answer.raise_for_status()
        return str(answer.json()["data"][0]["name"])
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        msg = f"it answers {answer.status_code}, and not as Langfuse does"
        raise ConnectionError(msg) from error
