"""Everything of the Langfuse SDK that Orkestra uses and that is not its public API.

The SDK keeps one client for each public key in the process, and silently ignores the settings of
later ones. There is no public way to find or forget that client, to choose the client that
`get_client()` returns in a context, or to change which spans the SDK's processor exports.
"""

import atexit
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, cast

from langfuse import Langfuse
from langfuse._client import get_client as _get_client  # pyright: ignore[reportMissingTypeStubs]
from langfuse._client.resource_manager import LangfuseResourceManager  # pyright: ignore[reportMissingTypeStubs]
from langfuse._client.span_processor import LangfuseSpanProcessor  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from orkestra.config import LangfuseSettings

_manager: Final = cast("Any", LangfuseResourceManager)


def registry_lock() -> AbstractContextManager[object]:
    """Return the lock of the SDK's clients, which is re-entrant."""
    return cast("AbstractContextManager[object]", _manager._lock)  # noqa: SLF001


def resources_of(public_key: str) -> Any:
    """Return the resources of the SDK's client of the key; None where it has no client."""
    return _manager._instances.get(public_key)  # noqa: SLF001


def make_client(
    settings: LangfuseSettings, provider: TracerProvider, exporter: SpanExporter
) -> Any:
    """Make the SDK's client of the key on a provider and an exporter, and return its resources.

    Its hook for the interpreter's exit is removed, because it waits for Langfuse without limit.
    """
    # Not kept here: the SDK registers it, and ignores the settings of later ones (T42).
    Langfuse(
        public_key=settings.public_key,
        secret_key=settings.secret_key.get_secret_value() if settings.secret_key else None,
        base_url=settings.base_url,
        environment=settings.environment,
        release=settings.release,
        # Only spans for Langfuse reach this provider: there is nothing to filter out.
        should_export_span=lambda _: True,
        tracer_provider=provider,
        span_exporter=exporter,
    )
    resources = resources_of(settings.public_key or "")
    atexit.unregister(resources.shutdown)
    return resources


def confine(provider: TracerProvider, is_elsewhere: Callable[[ReadableSpan, str], bool]) -> None:
    """Stop the SDK's processors on a provider from exporting other projects' spans."""
    for processor in processors_of(provider):
        if isinstance(processor, LangfuseSpanProcessor):
            _confine_processor(processor, is_elsewhere)


def _confine_processor(
    processor: LangfuseSpanProcessor, is_elsewhere: Callable[[ReadableSpan, str], bool]
) -> None:
    private = cast("Any", processor)
    should_export = private._should_export_span  # noqa: SLF001

    def should_export_here(span: ReadableSpan) -> bool:
        return bool(should_export(span)) and not is_elsewhere(span, processor.public_key)

    private._should_export_span = should_export_here  # noqa: SLF001


def keys_of(provider: TracerProvider) -> frozenset[str]:
    """Return the keys of the projects to which the SDK's processors on a provider send."""
    processors = processors_of(provider)
    return frozenset(p.public_key for p in processors if isinstance(p, LangfuseSpanProcessor))


def processors_of(provider: TracerProvider) -> tuple[object, ...]:
    """Return the processors of a provider."""
    return cast("Any", provider)._active_span_processor._span_processors  # type: ignore[no-any-return]  # noqa: SLF001


def forget_client(public_key: str, resources: Any) -> None:
    """Forget the client of the key if it has these resources, so that a new one can be made."""
    if resources_of(public_key) is resources:
        del _manager._instances[public_key]  # noqa: SLF001


def client_in_context(public_key: str) -> AbstractContextManager[None]:
    """Make `get_client()` and `@observe` use the client of the key.

    In a process with several clients they would use none.
    """
    choose = cast("Any", _get_client)._set_current_public_key  # noqa: SLF001
    return cast("AbstractContextManager[None]", choose(public_key))
