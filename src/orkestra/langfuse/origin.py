"""Where the trace around the running code began, and for whom.

A workflow joins the trace of its caller only if that trace began in this process, without a remote
parent, and serves no other tenant: an HTTP caller who sends a `traceparent` could otherwise place
spans in another tenant's trace.
"""

import threading
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from orkestra.tenancy import current_tenant
from orkestra.tracing import Caller

_MARK: Final = "_orkestra_origin"


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
    """Marks each span of a trace that began in this process with its origin."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See base class."""
        if getattr(span, _MARK, None) is not None:
            return
        parent = trace.get_current_span(parent_context)
        if parent.get_span_context().is_valid:
            origin = getattr(parent, _MARK, None)
        else:
            origin = Origin(current_tenant())
        if origin is not None:
            mark(span, origin)


def mark(span: trace.Span, origin: Origin) -> None:
    """Say where the span's trace began."""
    setattr(span, _MARK, origin)


def caller_in(public_key: str, tenant: str | None) -> Caller | None:
    """The observation around the running code, if the tenant's workflows may join its trace.

    Args:
        public_key: The Langfuse project that the observation must be sent to.
        tenant: Who is about to start a workflow.
    """
    span = trace.get_current_span()
    if not isinstance(span, ReadableSpan) or not span.is_recording():
        return None
    scope = span.instrumentation_scope
    if scope is None or (scope.attributes or {}).get("public_key") != public_key:
        return None
    origin = getattr(span, _MARK, None)
    if origin is None and span.parent is None:
        # A root that was begun before this process had a marker.
        origin = Origin(None)
        mark(span, origin)
    if not isinstance(origin, Origin) or not origin.claim(tenant):
        return None
    context = span.get_span_context()
    return Caller(trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id))
