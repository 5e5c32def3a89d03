"""Where the trace around the running code began, for whom, and where its spans go.

A workflow joins the trace of its caller only if that trace began in this process, without a remote
parent, serves no other tenant and is sent to the same project: an HTTP caller who sends a
`traceparent` could otherwise place spans in another tenant's trace. Else it is linked to it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan

from orkestra.langfuse.items import Taker
from orkestra.langfuse.live import AttemptSpan, attempt_in
from orkestra.tenancy import current_tenant
from orkestra.tracing import Caller

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
        self._owners: OrderedDict[int, Owner] = OrderedDict()

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
            return self._owners.pop(span_context.span_id, None)
        return self._owners.get(span_context.span_id)

    def _remember(self, span: SdkSpan, tenant: str | None, taker: Taker) -> None:
        """Spans that never end must not be remembered for ever."""
        self._owners[span.get_span_context().span_id] = (tenant, taker)
        if len(self._owners) > _REMEMBERED:
            self._owners.popitem(last=False)


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
