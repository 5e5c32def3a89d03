"""From a span of ours to Langfuse: provider, processor, sender, and the SDK's client beside them.

The provider is our own, so that nothing of the application's OpenTelemetry is touched and the ids
can be chosen. The SDK's client works on the same provider: what an activity observes takes the same
way as the activity's span. Sinks of one public key share a pipeline, as the SDK shares the client.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from langfuse import LangfuseOtelSpanAttributes as Names
from langfuse import __version__ as langfuse_version
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from orkestra.config import LangfuseSettings
from orkestra.langfuse import sdk
from orkestra.langfuse.delivery import Delivery
from orkestra.langfuse.ids import ToldIds, next_ids
from orkestra.langfuse.losses import Losses
from orkestra.langfuse.masking import Masker
from orkestra.langfuse.origin import OriginMarker
from orkestra.langfuse.scrubbing import OURS, Scrubber
from orkestra.langfuse.sender import Sender
from orkestra.tracing import Span

_logger: Final = logging.getLogger(__name__)


class _Provider(TracerProvider):
    """A provider that knows its pipeline, by which the next sink of the key finds it."""

    pipeline: "Pipeline"


class Pipeline:
    """Takes the spans of one Langfuse project. Made by `open_pipeline()`."""

    def __init__(self, settings: LangfuseSettings, present: Any) -> None:
        """Build everything.

        Args:
            settings: The project.
            present: What a client that the application made for the key works with, or None.
        """
        self.losses = Losses()
        self.users = 1
        self.public_key = settings.public_key or ""
        self.settings = settings
        masker = Masker(settings.mask)
        self._sender = Sender(
            Delivery(settings), Scrubber(masker), self.losses, limit=settings.queue_size
        )
        self._provider = _Provider(
            sampler=TraceIdRatioBased(settings.sample_rate),
            resource=_resource(settings),
            shutdown_on_exit=False,
            id_generator=ToldIds(),
        )
        self._provider.pipeline = self
        self._provider.add_span_processor(OriginMarker())
        self._client = self._join_sdk(present, masker)
        self._tracer = self._provider.get_tracer(
            sdk.TRACER_NAME,
            langfuse_version,
            attributes={"public_key": self.public_key, OURS: True},
        )

    def is_sampled(self, span: Span) -> bool:
        """Whether the trace is sent, which its id decides, in every process alike."""
        result = self._provider.sampler.should_sample(None, int(span.trace_id, 16), span.name)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def start(self, span: Span, name: str, attributes: Any) -> tuple[trace.Span, Context]:
        """Start a span with the ids and the start time that it says.

        Returns:
            The span, and the context that its parent is in.
        """
        context = _context_under(span)
        with next_ids(span.trace_id, span.span_id):
            started = self._tracer.start_span(
                name,
                context=context,
                start_time=span.start_ns,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            )
        return started, context

    def flush(self, deadline: float) -> bool:
        """Send everything that has ended.

        Args:
            deadline: Until when to wait, by `time.monotonic()`.

        Returns:
            Whether all was delivered.
        """
        left = max(0.0, deadline - time.monotonic())
        self._provider.force_flush(int(left * 1000))
        return self._sender.drain(deadline)

    def release(self) -> Callable[[], None]:
        """Shut down, if this was the last sink.

        Returns:
            To be called when nobody waits any more: ends the SDK's threads, which takes as long as
            the SDK likes.
        """
        with sdk.registry_lock():
            self.users -= 1
            if self.users:
                return _nothing
            if self._client is not None:
                sdk.forget_client(self.public_key, self._client)
        self._provider.shutdown()
        return _nothing if self._client is None else self._client.shutdown

    def _join_sdk(self, present: Any, masker: Masker) -> Any:
        """Put the SDK's processor on our provider, and the SDK's client too if it is ours."""
        mask = _sdk_mask(masker) if masker.is_on else None
        client = None
        if present is None:
            client = sdk.make_client(self.settings, self._provider, self._sender, mask)
        if client is None or client.tracer_provider is not self._provider:
            self._provider.add_span_processor(sdk.make_processor(self.settings, self._sender))
        if present is not None:
            _logger.info("The application has a Langfuse client of this key: its settings hold")
            if isinstance(present.tracer_provider, TracerProvider):
                present.tracer_provider.add_span_processor(OriginMarker())
        return client


def open_pipeline(settings: LangfuseSettings) -> Pipeline:
    """The pipeline of the settings' public key, made where there is none."""
    with sdk.registry_lock():
        present = sdk.resources_of(settings.public_key or "")
        provider = present and present.tracer_provider
        if not isinstance(provider, _Provider):
            return Pipeline(settings, present)
        pipeline = provider.pipeline
        pipeline.users += 1
    if (pipeline.settings.base_url, pipeline.settings.secret_key) != (
        settings.base_url,
        settings.secret_key,
    ):
        _logger.warning(
            "Langfuse key %s is in use in this process with another secret or URL, which holds",
            pipeline.public_key,
        )
    return pipeline


def _nothing() -> None:
    """There is nothing left to end."""


def _resource(settings: LangfuseSettings) -> Resource:
    values = {Names.ENVIRONMENT: settings.environment, Names.RELEASE: settings.release}
    return Resource.create({name: value for name, value in values.items() if value is not None})


def _context_under(span: Span) -> Context:
    """A context with the span's parent and nothing of whoever happens to run now."""
    if span.parent_id is None:
        return Context()
    parent = trace.SpanContext(
        trace_id=int(span.trace_id, 16),
        span_id=int(span.parent_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    return baggage.set_baggage(sdk.TRACE_ID_BAGGAGE, span.trace_id, context)


def _sdk_mask(masker: Masker) -> Any:
    def mask(*, data: Any, **_: Any) -> Any:
        return masker.value(data)

    return mask
