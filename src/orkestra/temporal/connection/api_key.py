"""The API key of the moment: from the settings, a file or a function."""

import asyncio
import inspect
from pathlib import Path

from pydantic import SecretStr

from orkestra.config import ApiKeyProvider, TemporalSettings


class BadApiKeyError(Exception):
    """The API key cannot be had or used; the message says why and does not show it."""


async def read_api_key(settings: TemporalSettings) -> str | None:
    """Read it anew.

    Args:
        settings: Where it is; a function that is not async is called on a thread.

    Returns:
        The key, or None where none is configured.

    Raises:
        BadApiKeyError: There is none in the file, the function raised, or no header can hold it.
    """
    if settings.api_key_file is not None:
        where = f"temporal.api_key_file {str(settings.api_key_file)!r}"
        return _checked(_from_file(settings.api_key_file, where), where)
    if settings.api_key is None:
        return None
    if isinstance(settings.api_key, SecretStr):
        return settings.api_key.get_secret_value()
    where = "what the function temporal.api_key returned"
    return _checked(await _from_function(settings.api_key), where)


def _from_file(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BadApiKeyError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadApiKeyError(f"{where} is no API key: it is not ASCII text") from None


async def _from_function(provider: ApiKeyProvider) -> object:
    try:
        if inspect.iscoroutinefunction(provider):
            return await provider()
        given = await asyncio.to_thread(provider)
        return await given if inspect.isawaitable(given) else given
    except Exception as error:
        msg = f"the function temporal.api_key raised {type(error).__name__}, which is the cause"
        raise BadApiKeyError(msg) from error


def _checked(key: object, where: str) -> str:
    if isinstance(key, str) and key and key.isascii() and key.isprintable():
        return key
    msg = f"{where} is no API key: it must be a line of printable ASCII"
    raise BadApiKeyError(msg)
