"""Traces as plain data: ids, spans and the attributes of a trace. Standard library only.

Workflow code computes all of this inside the sandbox; `orkestra.langfuse` sends it.
"""

from orkestra.tracing.capture import Captured, CaptureLimits, Json, capture, capture_error
from orkestra.tracing.context import (
    MetadataValue,
    TraceAttributes,
    TraceContext,
    current_trace_attributes,
    fitting,
    inherited_attributes,
    trace_attributes,
)
from orkestra.tracing.sink import Caller, SpanCounts, TraceProject, TraceSink
from orkestra.tracing.spans import (
    AttemptFacts,
    Level,
    LiveSpan,
    Outcome,
    RunFacts,
    RunSpans,
    Span,
    SpanKind,
    SpanRecord,
    activity_span,
    nanoseconds,
    trace_id_of,
    ui_link,
    workflow_span_id,
)

__all__ = [
    "AttemptFacts",
    "Caller",
    "CaptureLimits",
    "Captured",
    "Json",
    "Level",
    "LiveSpan",
    "MetadataValue",
    "Outcome",
    "RunFacts",
    "RunSpans",
    "Span",
    "SpanCounts",
    "SpanKind",
    "SpanRecord",
    "TraceAttributes",
    "TraceContext",
    "TraceProject",
    "TraceSink",
    "activity_span",
    "capture",
    "capture_error",
    "current_trace_attributes",
    "fitting",
    "inherited_attributes",
    "nanoseconds",
    "trace_attributes",
    "trace_id_of",
    "ui_link",
    "workflow_span_id",
]
