"""Observations made inside activities: the Langfuse SDK and OpenTelemetry, routed to sinks.

The Langfuse SDK keeps one client for each public key in the process. Where the application has made
that client, it is used; otherwise one is made here, on a provider of its own. Sinks of one public
key share it. Either way, a span goes to the project of the tenant for whom it was made, whichever
client made it.

The span of an attempt (`AttemptSpan`) is an OpenTelemetry API span, but not one of its SDK: it
keeps what the activity's code sets on it, and is sent as every other span of Orkestra's when the
attempt has ended.
"""

import logging
import os
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, process
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from langfuse.span_filter import is_default_export_span
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Status, StatusCode

from orkestra.caches import LruCache
from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse import sdk
from orkestra.langfuse.attributes import Attributes, Route, SpanReceiver, ThirdPartySpans
from orkestra.langfuse.encode import TRACE_LABELS
from orkestra.tenancy import current_tenant
from orkestra.tracing import Caller, FinishedSpan, Span

_logger: Final = logging.getLogger(__name__)
_ATTEMPT: Final = "orkestra-attempt"  # key of OpenTelemetry's context
_OWNER: Final = "_orkestra_origin"  # attribute of a span object, for its TraceOwner
_MAX_DESTINATIONS: Final = 50_000
_MAX_ADDED_ATTRIBUTES: Final = 128
_MAX_CHILD_TRACERS: Final = 8
_FLUSH_MILLISECONDS: Final = 1000
_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)

_Destination = tuple[str | None, SpanReceiver]
"""Tenant for whom a span was made, and where it goes."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


# --- The attempt's span --------------------------------------------------------------------------


class AttemptSpan(trace.Span):
    """Current span while an attempt runs; keeps what the activity's code sets on it."""

    def __init__(
        self,
        span_context: trace.SpanContext,
        tenant: str | None,
        labels: Attributes,
        receiver: SpanReceiver,
    ) -> None:
        self.tenant = tenant
        self.labels = labels
        self.receiver = receiver
        self._context = span_context
        self._added: dict[str, object] = {}
        self._name: str | None = None
        self._is_ended = False
        self._entered: AbstractContextManager[None] | None = None

    @classmethod
    def of(cls, span: Span, labels: Attributes | None, receiver: SpanReceiver) -> Self:
        """Make the span of an attempt; without labels its trace is not sent."""
        span_context = trace.SpanContext(
            trace_id=int(span.trace_id, 16),
            span_id=int(span.span_id, 16),
            is_remote=False,
            trace_flags=trace.DEFAULT_TRACE_OPTIONS if labels is None else _SAMPLED,
        )
        return cls(span_context, span.tenant, labels or {}, receiver)

    def enter(self) -> None:
        """Make the span the current one of the running task."""
        # For each attempt, because the application may set its provider late.
        attach_to_global_provider()
        self._entered = self.current()
        self._entered.__enter__()

    def leave(self, finished: FinishedSpan) -> FinishedSpan:
        """Make the span current no more, and return it with what the code has set on it."""
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
        # Code that still runs, such as a thread, cannot change the span any more.
        self.end()
        return replace(finished, added=self._added, name=self._name)

    @contextmanager
    def current(self) -> Generator[None]:
        """Make the span current for OpenTelemetry and the Langfuse SDK."""
        trace_id = trace.format_trace_id(self._context.trace_id)
        # From an empty context: spans around the worker must not become parents of the activity's.
        around = baggage.set_baggage(names.TRACE_ID_BAGGAGE, trace_id, Context())
        inside = trace.set_span_in_context(self, context.set_value(_ATTEMPT, self, around))
        token = context.attach(inside)
        try:
            with sdk.client_in_context(self.receiver.public_key):
                yield
        finally:
            context.detach(token)

    @property
    def attributes(self) -> Mapping[str, object]:
        """Attributes that the Langfuse SDK reads before it updates the current observation."""
        return {names.TYPE: "tool", **self._added}

    def get_span_context(self) -> trace.SpanContext:
        """See base class."""
        return self._context

    def is_recording(self) -> bool:
        """See base class."""
        return self._context.trace_flags.sampled and not self._is_ended

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """See base class."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        """See base class; the labels of the trace cannot be set (B21)."""
        is_room = len(self._added) < _MAX_ADDED_ATTRIBUTES or key in self._added
        if self.is_recording() and is_room and key not in TRACE_LABELS:
            self._added[key] = value

    def update_name(self, name: str) -> None:
        """See base class."""
        if self.is_recording():
            self._name = name

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """See base class; Langfuse shows no events."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See base class; the status is how the attempt ends."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the base class's
    ) -> None:
        """See base class; the exception that ends the attempt is recorded."""

    def end(self, end_time: int | None = None) -> None:
        """See base class."""
        self._is_ended = True


def _attempt_in(otel_context: Context) -> AttemptSpan | None:
    found = context.get_value(_ATTEMPT, otel_context)
    return found if isinstance(found, AttemptSpan) else None


# --- The caller's span ---------------------------------------------------------------------------


class TraceOwner:
    """Owner of a trace that began in this process: the first tenant that joins it, or None yet."""

    def __init__(self, tenant: str | None) -> None:
        self._tenant = tenant
        self._lock = threading.Lock()

    def claim(self, tenant: str | None) -> bool:
        """Check that work of the tenant may join the trace; the first claim decides."""
        with self._lock:
            if self._tenant is None:
                self._tenant = tenant
            return self._tenant == tenant


def current_caller(public_key: str, tenant: str | None) -> Caller | None:
    """Find the span that the running code is in, and decide whether a workflow may join it.

    The workflow is the tenant's, and its spans go to the project of the key.
    """
    span = trace.get_current_span()
    span_context = span.get_span_context()
    if not span_context.is_valid:
        return None
    return Caller(
        trace.format_trace_id(span_context.trace_id),
        trace.format_span_id(span_context.span_id),
        is_joined=_may_join(span, public_key, tenant),
    )


def _may_join(span: trace.Span, public_key: str, tenant: str | None) -> bool:
    """Decide whether a workflow joins the trace of its caller, or only links to it (B20).

    An HTTP caller who sends a `traceparent` could else place spans in another tenant's trace. So
    the trace must have begun in this process, without a remote parent, serve no other tenant and be
    sent to the same project.
    """
    if isinstance(span, AttemptSpan):
        is_same = span.tenant == tenant and span.receiver.public_key == public_key
        return is_same and span.is_recording()
    if not isinstance(span, ReadableSpan) or not span.is_recording():
        return False
    # Only the SDK's own spans are sure to reach the project, as the parent must.
    scope = span.instrumentation_scope
    if scope is None or (scope.attributes or {}).get("public_key") != public_key:
        return False
    owner = getattr(span, _OWNER, None)
    if owner is None and span.parent is None:
        # A root that began before this process had an OwnershipProcessor.
        owner = TraceOwner(None)
        setattr(span, _OWNER, owner)
    return isinstance(owner, TraceOwner) and owner.claim(tenant)


# --- Routing of third-party spans ----------------------------------------------------------------


class OwnershipProcessor(SpanProcessor):
    """Notes each span's destination until it is sent, and the owner of its trace.

    Args:
        route: Finds the destination of spans that are made outside of attempts.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        # Bounded, because some spans never end.
        self._destinations = LruCache[int, _Destination](_MAX_DESTINATIONS)

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """See base class."""
        around = context.get_current() if parent_context is None else parent_context
        attempt = _attempt_in(around)
        if attempt is not None:
            # Langfuse reads the labels of a trace from every span.
            span.set_attributes(attempt.labels)
            self._note(span, attempt.tenant, attempt.receiver)
            setattr(span, _OWNER, TraceOwner(attempt.tenant))
            return
        tenant = current_tenant()
        if (receiver := self._route(tenant)) is not None:
            self._note(span, tenant, receiver)
        parent = trace.get_current_span(around)
        if parent.get_span_context().is_valid:
            # A remote parent has no owner, so no workflow joins its trace (B20).
            owner = getattr(parent, _OWNER, None)
        else:
            owner = TraceOwner(tenant)
        if owner is not None and getattr(span, _OWNER, None) is None:
            setattr(span, _OWNER, owner)

    def destination(self, span: ReadableSpan, *, forget: bool = True) -> _Destination | None:
        """Return a span's destination; None where it is not known."""
        span_context = span.get_span_context()
        if span_context is None:
            return None
        if forget:
            return self._destinations.pop(span_context.span_id)
        return self._destinations.get(span_context.span_id)

    def _note(self, span: SdkSpan, tenant: str | None, receiver: SpanReceiver) -> None:
        self._destinations.put(span.get_span_context().span_id, (tenant, receiver))


class _RoutingExporter(SpanExporter):
    """On Orkestra's provider: hands the SDK's spans to their receivers, and drops all others."""

    def __init__(self, ownership: OwnershipProcessor) -> None:
        self._ownership = ownership

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See base class; returns before the spans are sent."""
        routed = defaultdict[_Destination, list[ReadableSpan]](list)
        for span in spans:
            destination = self._ownership.destination(span)
            if destination is not None:
                routed[destination].append(span)
        for (tenant, receiver), group in routed.items():
            receiver.receive(_encoded(tenant, group))
        return SpanExportResult.SUCCESS


class _RoutingProcessor(OwnershipProcessor):
    """On the application's provider: copies spans of instrumentations inside attempts.

    Spans for projects to which the application sends its spans itself are not copied.
    """

    def __init__(self, route: Route, sent_already: frozenset[str]) -> None:
        super().__init__(route)
        self._sent_already = sent_already

    def is_elsewhere(self, span: ReadableSpan, public_key: str) -> bool:
        """Check that the span is for another project than the key's."""
        destination = self.destination(span, forget=False)
        return destination is not None and destination[1].public_key != public_key

    def on_end(self, span: ReadableSpan) -> None:
        """See base class; spans that have nothing to do with models stay with the application."""
        destination = self.destination(span)
        if destination is not None and is_default_export_span(span):
            tenant, receiver = destination
            if receiver.public_key not in self._sent_already:
                receiver.receive(_encoded(tenant, [span]))


def _encoded(tenant: str | None, spans: Sequence[ReadableSpan]) -> ThirdPartySpans:
    return ThirdPartySpans(tenant, encode_spans(spans).SerializeToString(), len(spans))


# --- Providers and clients -----------------------------------------------------------------------


class _Provider(TracerProvider):
    """Orkestra's provider, by which the next sink of the key finds the `Observing`."""

    observing: "Observing"


def open_observing(settings: LangfuseSettings, route: Route) -> "Observing":
    """Open the SDK's client of a public key, or share the one that another sink has opened."""
    with sdk.registry_lock():
        present = sdk.resources_of(settings.public_key or "")
        provider = present and present.tracer_provider
        if not isinstance(provider, _Provider):
            return Observing(settings, route)
        provider.observing.routes.append(route)
        return provider.observing


class Observing:
    """The Langfuse SDK's client of one public key, shared by sinks.

    Attributes:
        routes: Routes of the sinks; the first one decides.
    """

    def __init__(self, settings: LangfuseSettings, route: Route) -> None:
        self.public_key = settings.public_key or ""
        self.routes: list[Route] = [route]
        self._provider: _Provider | None = None
        self._client = None
        present = sdk.resources_of(self.public_key)
        if present is None:
            self._provider = self._make_provider(settings)
        elif isinstance(present.tracer_provider, TracerProvider):
            _attach(present.tracer_provider, self._route)

    def flush(self) -> None:
        """Hand in all spans that have ended."""
        if self._provider is not None:
            self._provider.force_flush(_FLUSH_MILLISECONDS)

    def close(self, route: Route) -> "Callable[[], None] | None":
        """Release it for one sink.

        Returns:
            After the last sink, a function that ends the SDK's threads, which may take long.
        """
        with sdk.registry_lock():
            if route in self.routes:
                self.routes.remove(route)
            if self.routes or self._client is None:
                return None
            sdk.forget_client(self.public_key, self._client)
        return self._client.shutdown

    def _make_provider(self, settings: LangfuseSettings) -> _Provider:
        # The SDK ignores its own sampling on a given provider (T43). At exit, the sinks flush.
        provider = _Provider(
            sampler=TraceIdRatioBased(settings.sample_rate), shutdown_on_exit=False
        )
        provider.observing = self
        ownership = OwnershipProcessor(self._route)
        provider.add_span_processor(ownership)
        self._client = sdk.make_client(settings, provider, _RoutingExporter(ownership))
        return provider

    def _route(self, tenant: str | None) -> SpanReceiver | None:
        return self.routes[0](tenant) if self.routes else None


def attach_to_global_provider() -> None:
    """Route the spans that instrumentations make by OpenTelemetry's global provider.

    Where the application has set none, this sets one, as the Langfuse SDK does: without one,
    instrumentations make no spans.
    """
    present = trace.get_tracer_provider()
    if isinstance(present, trace.ProxyTracerProvider):
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
        present = trace.get_tracer_provider()
    if isinstance(present, TracerProvider) and not isinstance(present, _Provider):
        # Outside of attempts, the spans of instrumentations stay with the application.
        _attach(present, lambda _: None)


def _attach(provider: TracerProvider, route: Route) -> None:
    """Add a processor to a provider of the application's, once."""
    if _is_attached(provider):
        return
    # Checked again, because another thread may have attached one meanwhile.
    with sdk.registry_lock():
        if not _is_attached(provider):
            processor = _RoutingProcessor(route, sdk.keys_of(provider))
            sdk.confine(provider, processor.is_elsewhere)
            provider.add_span_processor(processor)


def _is_attached(provider: TracerProvider) -> bool:
    return any(isinstance(each, OwnershipProcessor) for each in sdk.processors_of(provider))


# --- Process pools -------------------------------------------------------------------------------


class TracedProcessPool(Executor):
    """A process pool in whose calls an attempt's span is current.

    Spans that the child makes come back with the result of the call. This process masks, counts and
    sends them, so that a child needs no connection to Langfuse and nothing waits when it ends.
    """

    def __init__(self, pool: Executor, attempt: AttemptSpan, settings: LangfuseSettings) -> None:
        self._pool = pool
        self._receiver = attempt.receiver
        self._wrap = partial(
            _ChildCall,
            span_context=attempt.get_span_context(),
            tenant=attempt.tenant,
            labels=attempt.labels,
            # The mask may be any function, which cannot always be pickled.
            settings=settings.model_copy(update={"mask": None}),
        )

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See base class."""
        pending: Future[Any] = self._pool.submit(self._wrap(fn), *args, **kwargs)
        # A future of its own, because the pool's holds the `_ChildResult`.
        outer: Future[_T] = Future()
        outer.add_done_callback(lambda done: pending.cancel() if done.cancelled() else None)
        pending.add_done_callback(partial(self._unpack, outer))
        return outer

    def _unpack(self, outer: "Future[Any]", pending: "Future[Any]") -> None:
        if pending.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        if (error := pending.exception()) is not None:
            outer.set_exception(error)
            return
        result: _ChildResult = pending.result()
        # Before the result is set, so that they are not late for the attempt's end.
        for spans in result.spans:
            self._receiver.receive(spans)
        if result.error is None:
            outer.set_result(result.value)
        else:
            # The standard library's pool does the same with an error from a child.
            remote = cast("Any", process)._RemoteTraceback(result.traceback)  # noqa: SLF001
            result.error.__cause__ = remote
            outer.set_exception(result.error)


@dataclass(slots=True)
class _ChildResult:
    """Result of a call in a child, with the spans that it made."""

    spans: Sequence[ThirdPartySpans]
    value: Any = None
    error: BaseException | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class _ChildCall:
    """A call for a child, which makes the attempt's span current around it."""

    fn: Callable[..., Any]
    span_context: trace.SpanContext
    tenant: str | None
    labels: Attributes
    settings: LangfuseSettings

    def __call__(self, *args: Any, **kwargs: Any) -> _ChildResult:
        try:
            tracer = _child_tracer(self.settings, os.getpid())  # pyright: ignore[reportArgumentType] - frozen, so hashable
        except Exception:
            _logger.exception("Activities of this process run, but nothing is observed in them")
            return _ChildResult((), self.fn(*args, **kwargs))
        span = AttemptSpan(self.span_context, self.tenant, self.labels, tracer.collector)
        result = _ChildResult(())
        with span.current():
            try:
                result.value = self.fn(*args, **kwargs)
            except BaseException as raised:  # noqa: BLE001 - it is raised again in the parent
                result.error = raised
                result.traceback = f'\n"""\n{traceback.format_exc()}"""'
        result.spans = tracer.collect()
        return result


class _Collector:
    """Receiver that keeps the spans of a child until its call ends."""

    def __init__(self, public_key: str) -> None:
        self.public_key = public_key
        self.spans: list[ThirdPartySpans] = []

    def receive(self, spans: ThirdPartySpans) -> None:
        self.spans.append(spans)


class _ChildTracer:
    """The SDK's client of one project in a child."""

    def __init__(self, settings: LangfuseSettings) -> None:
        public_key = settings.public_key or ""
        self.collector = _Collector(public_key)
        if (inherited := sdk.resources_of(public_key)) is not None:
            # A forked child has the parent's client, whose spans would go nowhere.
            sdk.forget_client(public_key, inherited)
        self._observing = open_observing(settings, lambda _: self.collector)
        attach_to_global_provider()

    def collect(self) -> list[ThirdPartySpans]:
        """Return the spans that were made since the last time."""
        self._observing.flush()
        spans, self.collector.spans = self.collector.spans, []
        return spans


# The process is a part of the key, because a forked child inherits the cache.
@lru_cache(_MAX_CHILD_TRACERS)
def _child_tracer(settings: LangfuseSettings, _process: int) -> _ChildTracer:
    return _ChildTracer(settings)
