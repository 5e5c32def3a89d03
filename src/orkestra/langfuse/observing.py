"""What code inside activities observes with: the Langfuse SDK, and OpenTelemetry's global provider.

The SDK keeps one client for each public key in the process. Where the application has made it, that
one is used; else one is made on a provider of ours. Sinks of one public key share it. Either way a
span goes to the project of the tenant for whom it was made, whichever client made it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from langfuse.span_filter import is_default_export_span
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from orkestra.config import LangfuseSettings
from orkestra.langfuse import sdk
from orkestra.langfuse.items import Observed, Taker
from orkestra.langfuse.origin import OriginMarker, Route

_FLUSH_MILLISECONDS: Final = 1000


class _Provider(TracerProvider):
    """A provider that knows what it is for, by which the next sink of the key finds it."""

    observing: "Observing"


class Observing:
    """The SDK's client of one public key. Made by `open_observing()`."""

    def __init__(self, settings: LangfuseSettings, route: Route) -> None:
        """Make the client, or join the one that the application has made.

        Args:
            settings: The project.
            route: Where the spans of a tenant go.
        """
        self.public_key = settings.public_key or ""
        self.routes: list[Route] = [route]
        self._provider: _Provider | None = None
        self._client = None
        present = sdk.resources_of(self.public_key)
        if present is None:
            self._provider = self._make_provider(settings)
        elif isinstance(present.tracer_provider, TracerProvider):
            join(present.tracer_provider, self._route)

    def flush(self) -> None:
        """Have everything that has ended handed to the sinks."""
        if self._provider is not None:
            self._provider.force_flush(_FLUSH_MILLISECONDS)

    def close(self, route: Route) -> "Callable[[], None] | None":
        """Let go of it for one sink.

        Returns:
            Where it was the last one: ends the SDK's threads, which takes as long as it likes.
        """
        with sdk.registry_lock():
            if route in self.routes:
                self.routes.remove(route)
            if self.routes or self._client is None:
                return None
            sdk.forget_client(self.public_key, self._client)
        return self._client.shutdown

    def _make_provider(self, settings: LangfuseSettings) -> "_Provider":
        provider = _Provider(
            sampler=TraceIdRatioBased(settings.sample_rate), shutdown_on_exit=False
        )
        provider.observing = self
        marker = OriginMarker(self._route)
        provider.add_span_processor(marker)
        self._client = sdk.make_client(settings, provider, _Handover(marker))
        return provider

    def _route(self, tenant: str | None) -> Taker | None:
        return self.routes[0](tenant) if self.routes else None


def open_observing(settings: LangfuseSettings, route: Route) -> Observing:
    """What the settings' public key is observed with, made where there is nothing yet.

    Args:
        settings: The project.
        route: Where the spans of a tenant go.
    """
    with sdk.registry_lock():
        present = sdk.resources_of(settings.public_key or "")
        provider = present and present.tracer_provider
        if not isinstance(provider, _Provider):
            return Observing(settings, route)
        provider.observing.routes.append(route)
        return provider.observing


class _Handover(SpanExporter):
    """Hands the SDK's spans to whom they belong; those of nobody go nowhere."""

    def __init__(self, marker: OriginMarker) -> None:
        self._marker = marker

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See base class; returns before the spans are sent."""
        owned = defaultdict[tuple[str | None, Taker], list[ReadableSpan]](list)
        for span in spans:
            owner = self._marker.owner_of(span)
            if owner is not None:
                owned[owner].append(span)
        for (tenant, taker), theirs in owned.items():
            taker.take(observed(tenant, theirs))
        return SpanExportResult.SUCCESS


class _Forwarder(OriginMarker):
    """On a provider of the application's: forwards what instrumentations make inside attempts."""

    def __init__(self, route: Route, sent_already: frozenset[str]) -> None:
        super().__init__(route)
        self._sent_already = sent_already

    def is_elsewhere(self, span: ReadableSpan, public_key: str) -> bool:
        """Whether the span is for another project than the one of the key."""
        owner = self.owner_of(span, forget=False)
        return owner is not None and owner[1].public_key != public_key

    def on_end(self, span: ReadableSpan) -> None:
        """See base class; spans that have nothing to do with models stay with the application."""
        owner = self.owner_of(span)
        if owner is not None and is_default_export_span(span):
            tenant, taker = owner
            if taker.public_key not in self._sent_already:
                taker.take(observed(tenant, [span]))


def join(provider: TracerProvider, route: Route) -> None:
    """Add ours to a provider of the application's, unless that is done already."""
    if _is_joined(provider):
        return
    with sdk.registry_lock():
        if not _is_joined(provider):
            forwarder = _Forwarder(route, sdk.keys_of(provider))
            sdk.confine(provider, forwarder.is_elsewhere)
            provider.add_span_processor(forwarder)


def _is_joined(provider: TracerProvider) -> bool:
    return any(isinstance(processor, OriginMarker) for processor in sdk.processors_of(provider))


def join_global_provider() -> None:
    """See that what instrumentations make by OpenTelemetry's global provider is forwarded.

    Where the application has set none, there is one from then on, as with the Langfuse SDK itself:
    without one, instrumentations make nothing.
    """
    present = trace.get_tracer_provider()
    if isinstance(present, trace.ProxyTracerProvider):
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
        present = trace.get_tracer_provider()
    if isinstance(present, TracerProvider) and not isinstance(present, _Provider):
        join(present, _nowhere)


def observed(tenant: str | None, spans: Sequence[ReadableSpan]) -> Observed:
    """Spans of the SDK as they are handed to a sink."""
    return Observed(tenant, encode_spans(spans).SerializeToString(), len(spans))


def _nowhere(_: str | None) -> Taker | None:
    """Outside of attempts, what instrumentations make stays with the application."""
    return None
