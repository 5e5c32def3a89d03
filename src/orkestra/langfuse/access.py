"""Whether a Langfuse project can be reached with its keys."""

from datetime import timedelta

import httpx

from orkestra.config import LangfuseSettings

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
