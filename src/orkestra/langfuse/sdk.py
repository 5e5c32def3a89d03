"""The private parts of the Langfuse SDK that there is no public way around, all in one place.

The SDK keeps one client for each public key in the process and silently ignores what later ones are
given. It has no way to find or forget that client, to say which client `get_client()` means in a
context, or to put its processor on a provider of one's own where the key has a client already.
"""

import atexit
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, cast

from langfuse import Langfuse
from langfuse._client import get_client as _get_client  # pyright: ignore[reportMissingTypeStubs]
from langfuse._client.resource_manager import LangfuseResourceManager
from langfuse._client.span_processor import LangfuseSpanProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from orkestra.config import LangfuseSettings

_manager: Final = cast("Any", LangfuseResourceManager)


def registry_lock() -> AbstractContextManager[object]:
    """Guards the SDK's clients; may be taken again by the thread that has it."""
    return cast("AbstractContextManager[object]", _manager._lock)  # noqa: SLF001


def resources_of(public_key: str) -> Any:
    """What the SDK's client of the key works with, or None where the key has no client."""
    return _manager._instances.get(public_key)  # noqa: SLF001


def make_client(
    settings: LangfuseSettings, provider: TracerProvider, exporter: SpanExporter
) -> Any:
    """Make the SDK's client of the key, on our provider and over our exporter.

    Its hook for the interpreter's exit is taken off, because it waits for Langfuse without limit.

    Returns:
        What the client works with.
    """
    Langfuse(
        public_key=settings.public_key,
        secret_key=settings.secret_key.get_secret_value() if settings.secret_key else None,
        base_url=settings.base_url,
        environment=settings.environment,
        release=settings.release,
        should_export_span=_everything,
        tracer_provider=provider,
        span_exporter=exporter,
    )
    resources = resources_of(settings.public_key or "")
    atexit.unregister(resources.shutdown)
    return resources


def confine(provider: TracerProvider, is_elsewhere: Callable[[ReadableSpan, str], bool]) -> None:
    """Keep the SDK's processors on a provider of the application's from spans of other projects.

    Args:
        provider: The application's provider.
        is_elsewhere: Whether a span is for another project than the one of the key.
    """
    for processor in processors_of(provider):
        if isinstance(processor, LangfuseSpanProcessor):
            _confine_processor(processor, is_elsewhere)


def keys_of(provider: TracerProvider) -> frozenset[str]:
    """The projects that the SDK's processors on a provider send to."""
    processors = processors_of(provider)
    return frozenset(p.public_key for p in processors if isinstance(p, LangfuseSpanProcessor))


def processors_of(provider: TracerProvider) -> tuple[object, ...]:
    """What has been added to a provider."""
    return cast("Any", provider)._active_span_processor._span_processors  # type: ignore[no-any-return]  # noqa: SLF001


def forget_client(public_key: str, resources: Any) -> None:
    """Let the next client of the key be a new one; the SDK would give out the dead one."""
    if resources_of(public_key) is resources:
        del _manager._instances[public_key]  # noqa: SLF001


def client_in_context(public_key: str) -> AbstractContextManager[None]:
    """Make `get_client()` and `@observe` mean the client of the key; with two they mean none."""
    choose = cast("Any", _get_client)._set_current_public_key  # noqa: SLF001
    return cast("AbstractContextManager[None]", choose(public_key))


def _confine_processor(
    processor: LangfuseSpanProcessor, is_elsewhere: Callable[[ReadableSpan, str], bool]
) -> None:
    hidden = cast("Any", processor)
    wanted = hidden._should_export_span  # noqa: SLF001

    def should_export(span: ReadableSpan) -> bool:
        return bool(wanted(span)) and not is_elsewhere(span, processor.public_key)

    hidden._should_export_span = should_export  # noqa: SLF001


def _everything(_: ReadableSpan) -> bool:
    """Only what is meant for Langfuse reaches our provider; the SDK's filter drops our spans."""
    return True
