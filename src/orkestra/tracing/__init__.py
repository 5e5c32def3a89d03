"""Traces as plain data: ids, spans and the attributes of a trace. Standard library only.

Workflow code computes all of this inside the sandbox; `orkestra.langfuse` sends it.
"""

from orkestra.tracing.attributes import (
    MetadataValue,
    TraceAttributes,
    current_trace_attributes,
    fitting,
    trace_attributes,
)
from orkestra.tracing.capture import Captured, CaptureLimits, Json, capture, capture_error
from orkestra.tracing.context import TraceContext
from orkestra.tracing.ids import (
    activity_span_id,
    message_span_id,
    nanoseconds,
    trace_id_of,
    workflow_span_id,
)
from orkestra.tracing.records import Level, LiveSpan, Outcome, Span, SpanKind, SpanRecord
from orkestra.tracing.sink import Caller, TraceSink

__all__ = [
    "Caller",
    "CaptureLimits",
    "Captured",
    "Json",
    "Level",
    "LiveSpan",
    "MetadataValue",
    "Outcome",
    "Span",
    "SpanKind",
    "SpanRecord",
    "TraceAttributes",
    "TraceContext",
    "TraceSink",
    "activity_span_id",
    "capture",
    "capture_error",
    "current_trace_attributes",
    "fitting",
    "message_span_id",
    "nanoseconds",
    "trace_attributes",
    "trace_id_of",
    "workflow_span_id",
]
