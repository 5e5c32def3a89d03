"""What code inside activities observes with: the Langfuse SDK, and OpenTelemetry's global provider.

The SDK keeps one client for each public key in the process. Where the application has made it, that
one is used; else one is made on a provider of ours. Sinks of one public key share it. Either way a
span goes to the project of the tenant for whom it was made, whichever client made it.

Where the trace around the running code began, for whom, and where its spans go.

A workflow joins the trace of its caller only if that trace began in this process, without a remote
parent, serves no other tenant and is sent to the same project: an HTTP caller who sends a
`traceparent` could otherwise place spans in another tenant's trace. Else it is linked to it.

The span that an attempt's code runs in: current for OpenTelemetry and for the Langfuse SDK.

It is a span of OpenTelemetry's API and not of its SDK: what the code inside puts on it is kept, and
the whole is sent as every other span of ours once it has ended.

What is current while an attempt runs.

Attempts that run in processes of a pool: their span is current there, too.

What is observed in the child comes back beside the result and is masked, counted and sent by this
process, so that a child needs no way to Langfuse of its own and nothing waits when it ends.
"""

import logging
import os
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, process
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, ParamSpec, TypeVar, cast

from langfuse.span_filter import is_default_export_span
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Status, StatusCode
from pydantic import SecretStr

from orkestra.caches import LruCache
from orkestra.config import LangfuseSettings
from orkestra.langfuse import attribute_names as names
from orkestra.langfuse import sdk
from orkestra.langfuse.attributes import Attributes, Ended, Observed, Taker
from orkestra.langfuse.encode import LABELS
from orkestra.tenancy import current_tenant
from orkestra.tracing import Caller, Span, SpanRecord

_MARK: Final = "_orkestra_origin"
_REMEMBERED: Final = 50_000

Owner = tuple[str | None, Taker]
"""For whom a span was made, and where it goes."""

Route = Callable[[str | None], Taker | None]
"""Where the spans of a tenant go; None where that cannot be known, and they go nowhere."""


class Origin:
    """A trace that began here. The first tenant that a workflow joins it for owns it."""

    def __init__(self, tenant: str | None) -> None:
        """Belong to the tenant; None means to whoever claims it first."""
        self._tenant = tenant
        self._lock = threading.Lock()

    def claim(self, tenant: str | None) -> bool:
        """Whether work of the tenant may join the trace."""
        with self._lock:
            if self._tenant is None:
                self._tenant = tenant
            return self._tenant == tenant


class OriginMarker(SpanProcessor):
    """Marks each span with its trace's origin, and remembers whose it is until it is sent."""

    def __init__(self, route: Route) -> None:
        """Ask the route where spans go that no attempt is around."""
        self._route = route
        # Bounded, because spans that never end would stay for ever.
        self._owners = LruCache[int, Owner](_REMEMBERED)

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """See base class."""
        around = context.get_current() if parent_context is None else parent_context
        attempt = attempt_in(around)
        if attempt is not None:
            span.set_attributes(attempt.inside.labels)
            self._remember(span, attempt.inside.tenant, attempt.taker)
            mark(span, Origin(attempt.inside.tenant))
            return
        tenant = current_tenant()
        if (taker := self._route(tenant)) is not None:
            self._remember(span, tenant, taker)
        parent = trace.get_current_span(around)
        if parent.get_span_context().is_valid:
            origin = getattr(parent, _MARK, None)
        else:
            origin = Origin(tenant)
        if origin is not None and getattr(span, _MARK, None) is None:
            mark(span, origin)

    def owner_of(
        self, span: ReadableSpan, *, forget: bool = True
    ) -> tuple[str | None, Taker] | None:
        """For whom a span was made and where it goes; None where that is not known."""
        span_context = span.get_span_context()
        if span_context is None:
            return None
        if forget:
            return self._owners.pop(span_context.span_id)
        return self._owners.get(span_context.span_id)

    def _remember(self, span: SdkSpan, tenant: str | None, taker: Taker) -> None:
        self._owners.put(span.get_span_context().span_id, (tenant, taker))


def mark(span: trace.Span, origin: Origin) -> None:
    """Say where the span's trace began."""
    setattr(span, _MARK, origin)


def caller_in(public_key: str, tenant: str | None) -> Caller | None:
    """What the tenant's workflows that are started by the running code hang under, or link to.

    Args:
        public_key: The Langfuse project that their spans are sent to.
        tenant: Who is about to start a workflow.
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
    if isinstance(span, AttemptSpan):
        is_same = span.inside.tenant == tenant and span.taker.public_key == public_key
        return is_same and span.is_recording()
    if not isinstance(span, ReadableSpan) or not span.is_recording():
        return False
    scope = span.instrumentation_scope
    if scope is None or (scope.attributes or {}).get("public_key") != public_key:
        return False
    origin = getattr(span, _MARK, None)
    if origin is None and span.parent is None:
        # A root that was begun before this process had a marker.
        origin = Origin(None)
        mark(span, origin)
    return isinstance(origin, Origin) and origin.claim(tenant)


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


ATTEMPT: Final = "orkestra-attempt"
"""Key of OpenTelemetry's context under which the attempt stands, for the spans made below it."""

_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_MAX_ADDED: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What the code of an attempt is told, in this process or in another.

    Attributes:
        trace_id: Its trace, as 32 hexadecimal digits.
        span_id: Its span, as 16 hexadecimal digits.
        is_sampled: Whether the trace is sent.
        tenant: For whom it acts.
        labels: Attributes that every span of the trace carries.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    tenant: str | None
    labels: Attributes


class AttemptSpan(OtelSpan):
    """Keeps what the code inside puts on it."""

    def __init__(self, inside: Inside, taker: Taker) -> None:
        """Stand for the attempt.

        Args:
            inside: The attempt.
            taker: Takes the spans that are made below it.
        """
        self.inside = inside
        self.taker = taker
        self.added: dict[str, object] = {}
        self.name: str | None = None
        self._is_ended = False
        self._context = trace.SpanContext(
            trace_id=int(inside.trace_id, 16),
            span_id=int(inside.span_id, 16),
            is_remote=False,
            trace_flags=_SAMPLED if inside.is_sampled else trace.DEFAULT_TRACE_OPTIONS,
        )

    @property
    def attributes(self) -> Mapping[str, object]:
        """What the Langfuse SDK asks for before it updates the current observation."""
        return {names.TYPE: "tool", **self.added}

    def get_span_context(self) -> trace.SpanContext:
        """See base class."""
        return self._context

    def is_recording(self) -> bool:
        """See base class."""
        return self.inside.is_sampled and not self._is_ended

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """See base class."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        """See base class; whose trace it is cannot be set."""
        is_room = len(self.added) < _MAX_ADDED or key in self.added
        if self.is_recording() and is_room and key not in LABELS:
            self.added[key] = value

    def update_name(self, name: str) -> None:
        """See base class."""
        if self.is_recording():
            self.name = name

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """See base class; Langfuse shows no events."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See base class; how the attempt ends is its status."""

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


@contextmanager
def entered(span: AttemptSpan) -> Generator[None]:
    """Make the span the current one for the code below."""
    inside = span.inside
    around = baggage.set_baggage(names.TRACE_ID_BAGGAGE, inside.trace_id, Context())
    below = trace.set_span_in_context(span, context.set_value(ATTEMPT, span, around))
    token = context.attach(below)
    try:
        with sdk.client_in_context(span.taker.public_key):
            yield
    finally:
        context.detach(token)


def attempt_in(otel_context: Context | None) -> AttemptSpan | None:
    """The attempt that a context is inside of."""
    found = context.get_value(ATTEMPT, otel_context)
    return found if isinstance(found, AttemptSpan) else None


class Current:
    """The attempt's span in OpenTelemetry's context, and its project in the Langfuse SDK's."""

    def __init__(
        self, span: Span, taker: Taker, settings: LangfuseSettings, labels: Attributes | None
    ) -> None:
        """Make the span current.

        Args:
            span: The attempt.
            taker: Takes what is observed inside.
            settings: Their project.
            labels: What every span of the trace carries; None where the trace is not sent.
        """
        self._taker = taker
        self._settings = settings
        join_global_provider()
        inside = Inside(
            trace_id=span.trace_id,
            span_id=span.span_id,
            is_sampled=labels is not None,
            tenant=span.tenant,
            labels=labels or {},
        )
        self._span = AttemptSpan(inside, taker)
        self._entered = entered(self._span)
        self._entered.__enter__()

    def through(self, pool: Executor) -> Executor:
        """The pool, with the span current in its processes, too."""
        return ChildSpans(pool, self._span.inside, self._settings, self._taker)

    def ended(self, record: SpanRecord) -> Ended:
        """Leave the span.

        Args:
            record: It, with its outcome.

        Returns:
            What to send.
        """
        self._entered.__exit__(None, None, None)
        self._span.end()
        return Ended(record, self._span.added, self._span.name)


_logger: Final = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_KEPT: Final = 8


class ChildSpans(Executor):
    """A pool whose calls run inside an attempt."""

    def __init__(
        self, pool: Executor, inside: Inside, settings: LangfuseSettings, taker: Taker
    ) -> None:
        """Run on the pool.

        Args:
            pool: Runs calls in other processes.
            inside: The attempt.
            settings: Its project.
            taker: Takes what is observed inside.
        """
        self._pool = pool
        self._taker = taker
        self._wrap = partial(
            _Call,
            inside=inside,
            project=_Project(
                settings.public_key or "",
                settings.secret_key or SecretStr(""),
                settings.base_url,
                settings.environment,
                settings.release,
                settings.sample_rate,
            ),
        )

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See base class."""
        pending: Future[Any] = self._pool.submit(self._wrap(fn), *args, **kwargs)
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
        reply: _Reply = pending.result()
        for observed in reply.observed:
            self._taker.take(observed)
        if reply.error is None:
            outer.set_result(reply.value)
        else:
            # As the pool does it with what is raised to it.
            reply.error.__cause__ = cast("Any", process)._RemoteTraceback(reply.trace)  # noqa: SLF001
            outer.set_exception(reply.error)


@dataclass(frozen=True, slots=True)
class _Project:
    """What the SDK's client in the child needs to know."""

    public_key: str
    secret_key: SecretStr
    base_url: str
    environment: str | None
    release: str | None
    sample_rate: float


@dataclass(slots=True)
class _Reply:
    """How a call ended, and what was observed in it."""

    observed: Sequence[Observed]
    value: Any = None
    error: BaseException | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call in the child, with the attempt's span around it."""

    fn: Callable[..., Any]
    inside: Inside
    project: _Project

    def __call__(self, *args: Any, **kwargs: Any) -> _Reply:
        desk = _desk_or_none(self.project)
        if desk is None:
            return _Reply((), self.fn(*args, **kwargs))
        with entered(AttemptSpan(self.inside, desk.basket)):
            try:
                value, error, trace = self.fn(*args, **kwargs), None, ""
            except BaseException as raised:  # noqa: BLE001 - it is raised again in the parent
                value, error, trace = None, raised, f'\n"""\n{traceback.format_exc()}"""'
        return _Reply(desk.collected(), value, error, trace)


class _Basket:
    """Takes what is observed in a child until its call ends."""

    def __init__(self, public_key: str) -> None:
        self.public_key = public_key
        self.taken: list[Observed] = []

    def take(self, observed: Observed) -> None:
        self.taken.append(observed)


class _Desk:
    """What a child observes with, for one project."""

    def __init__(self, project: _Project) -> None:
        self.basket = _Basket(project.public_key)
        if (inherited := sdk.resources_of(project.public_key)) is not None:
            # A forked child has the parent's client, whose spans would go nowhere.
            sdk.forget_client(project.public_key, inherited)
        settings = LangfuseSettings(
            public_key=project.public_key,
            secret_key=project.secret_key,
            base_url=project.base_url,
            environment=project.environment,
            release=project.release,
            sample_rate=project.sample_rate,
        )
        self._observing = open_observing(settings, lambda _: self.basket)
        join_global_provider()

    def collected(self) -> list[Observed]:
        """What was observed since the last time."""
        self._observing.flush()
        taken, self.basket.taken = self.basket.taken, []
        return taken


def _desk_or_none(project: _Project) -> "_Desk | None":
    try:
        return _desk(project, os.getpid())
    except Exception:
        _logger.exception("Nothing can be observed in this process: its activities go on")
        return None


@lru_cache(_KEPT)
def _desk(project: _Project, _process: int) -> _Desk:
    return _Desk(project)
