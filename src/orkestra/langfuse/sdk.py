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
from langfuse._client.resource_manager import (  # pyright: ignore[reportMissingTypeStubs]
    LangfuseResourceManager,
)
from langfuse._client.span_processor import (  # pyright: ignore[reportMissingTypeStubs]
    LangfuseSpanProcessor,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter

from orkestra.config import LangfuseSettings

TRACER_NAME: Final = "langfuse-sdk"
"""Instrumentation scope by which Langfuse knows spans that speak its own attributes."""

TRACE_ID_BAGGAGE: Final = "langfuse_trace_id"
"""Baggage that tells the processor that the trace has its root elsewhere."""

_manager: Final = cast("Any", LangfuseResourceManager)


def registry_lock() -> AbstractContextManager[object]:
    """Guards the SDK's clients; may be taken again by the thread that has it."""
    return cast("AbstractContextManager[object]", _manager._lock)  # noqa: SLF001


def resources_of(public_key: str) -> Any:
    """What the SDK's client of the key works with, or None where the key has no client."""
    return _manager._instances.get(public_key)  # noqa: SLF001


def make_client(
    settings: LangfuseSettings,
    provider: TracerProvider,
    exporter: SpanExporter,
    mask: Callable[..., Any] | None,
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
        mask=mask,
        should_export_span=_everything,
        tracer_provider=provider,
        span_exporter=exporter,
    )
    resources = resources_of(settings.public_key or "")
    atexit.unregister(resources.shutdown)
    return resources


def make_processor(settings: LangfuseSettings, exporter: SpanExporter) -> LangfuseSpanProcessor:
    """The SDK's processor, for a provider that its client of the key does not use."""
    return LangfuseSpanProcessor(
        public_key=settings.public_key or "",
        secret_key=settings.secret_key.get_secret_value() if settings.secret_key else "",
        base_url=settings.base_url,
        should_export_span=_everything,
        span_exporter=exporter,
    )


def forget_client(public_key: str, resources: Any) -> None:
    """Let the next client of the key be a new one; the SDK would give out the dead one."""
    if resources_of(public_key) is resources:
        del _manager._instances[public_key]  # noqa: SLF001


def client_in_context(public_key: str) -> AbstractContextManager[None]:
    """Make `get_client()` and `@observe` mean the client of the key; with two they mean none."""
    choose = cast("Any", _get_client)._set_current_public_key  # noqa: SLF001
    return cast("AbstractContextManager[None]", choose(public_key))


def _everything(_: ReadableSpan) -> bool:
    """Only what is meant for Langfuse reaches our provider; the SDK's filter drops our spans."""
    return True
