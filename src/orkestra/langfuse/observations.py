"""Which observations of a trace a Langfuse project has already.

Langfuse never merges what it gets twice, so whoever sends spans again must ask first. What was sent
can be asked for about two seconds later.
"""

from datetime import timedelta
from typing import Any, Final

import httpx

from orkestra.config import LangfuseSettings
from orkestra.errors import LangfuseUnavailableError

_PATH: Final = "api/public/v2/observations"
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
    url = f"{settings.base_url.rstrip('/')}/{_PATH}"
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
