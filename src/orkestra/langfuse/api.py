"""Langfuse's API: the observations of a trace, and the project of a pair of keys.

Langfuse never merges what it gets twice, so whoever sends spans again must ask first which of them
it has. A span shows up there about two seconds after it was sent.
"""

from datetime import timedelta
from typing import Any, Final

import httpx

from orkestra.config import LangfuseSettings
from orkestra.errors import LangfuseUnavailableError

_OBSERVATIONS_PATH: Final = "api/public/v2/observations"
_PAGE_SIZE: Final = 1000
_MAX_PAGES: Final = 1000
_INVALID_KEYS: Final = frozenset({401, 403})


async def present_observations(
    settings: LangfuseSettings, trace_id: str, *, timeout: timedelta
) -> frozenset[str]:
    """Ask for the span ids of all observations of a trace; none where it does not exist.

    Args:
        settings: The project, with both keys.
        trace_id: The trace, as 32 hexadecimal digits.
        timeout: Time limit of each step of a request.

    Raises:
        LangfuseUnavailableError: Langfuse gave no answer, or a malformed one.
    """
    secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
    url = f"{settings.base_url.rstrip('/')}/{_OBSERVATIONS_PATH}"
    query: dict[str, str | int] = {"traceId": trace_id, "limit": _PAGE_SIZE, "fields": "core"}
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
                # Else a server that ignores the cursor would be asked without end.
                if cursor == query.get("cursor"):
                    raise _unavailable(settings, "it returned the same page twice")
                query["cursor"] = cursor
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = type(error)
        # `_read()` raises `HTTPError` itself; httpx raises subclasses, some without a text.
        why = str(error) if kind is httpx.HTTPError else f"{kind.__name__} {error}".rstrip()
        raise _unavailable(settings, why) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unavailable(settings, "its answer is malformed") from error
    raise _unavailable(settings, f"a trace has more than {_PAGE_SIZE * _MAX_PAGES} observations")


def _read(response: httpx.Response) -> tuple[set[str], str | None]:
    if not response.is_success:
        msg = f"it answered {response.status_code} {response.text[:200]!r}"
        raise httpx.HTTPError(msg)
    content: Any = response.json()
    # An empty object would read as an empty list, and every span would be sent again.
    if type(content["data"]) is not list:
        raise TypeError
    return {str(each["id"]) for each in content["data"]}, content["meta"].get("cursor") or None


def _unavailable(settings: LangfuseSettings, why: str) -> LangfuseUnavailableError:
    return LangfuseUnavailableError(
        f"cannot read the existing observations from Langfuse at {settings.base_url!r}: {why}"
    )


async def project_of(settings: LangfuseSettings, *, timeout: timedelta) -> str:
    """Ask Langfuse for the name of the project that the keys belong to.

    Args:
        settings: The settings, with both keys.
        timeout: Time limit of each step of the request.

    Raises:
        PermissionError: Langfuse rejects the keys.
        ConnectionError: There is no answer, or the server is not Langfuse.
    """
    secret = settings.secret_key.get_secret_value() if settings.secret_key else ""
    url = f"{settings.base_url.rstrip('/')}/api/public/projects"
    try:
        async with httpx.AsyncClient(timeout=timeout.total_seconds()) as client:
            answer = await client.get(url, auth=(settings.public_key or "", secret))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        msg = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConnectionError(msg) from error
    if answer.status_code in _INVALID_KEYS:
        msg = f"it rejects the keys ({answer.status_code})"
        raise PermissionError(msg)
    try:
        answer.raise_for_status()
        return str(answer.json()["data"][0]["name"])
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        msg = f"it answers {answer.status_code}, but not as Langfuse does"
        raise ConnectionError(msg) from error
