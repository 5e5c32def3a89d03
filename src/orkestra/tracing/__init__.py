"""Traces as plain data: ids, spans and the attributes of a trace. Standard library only.

Workflow code computes all of this inside the sandbox; `orkestra.langfuse` sends it.
"""

from orkestra.tracing.attributes import (
    MetadataValue,
    TraceAttributes,
    current_trace_attributes,
    fitting,
    inherited_attributes,
    trace_attributes,
)
from orkestra.tracing.capture import Captured, CaptureLimits, Json, capture, capture_error
from orkestra.tracing.clock import LocalActivityTimes, WorkflowClock
from orkestra.tracing.context import TraceContext
from orkestra.tracing.ids import nanoseconds, trace_id_of, workflow_span_id
from orkestra.tracing.records import Level, LiveSpan, Outcome, Span, SpanKind, SpanRecord
from orkestra.tracing.sink import Caller, SpanCounts, TraceProject, TraceSink
from orkestra.tracing.spans import AttemptFacts, RunFacts, RunSpans, activity_span, ui_link

__all__ = [
    "AttemptFacts",
    "Caller",
    "CaptureLimits",
    "Captured",
    "Json",
    "Level",
    "LiveSpan",
    "LocalActivityTimes",
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
    "WorkflowClock",
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
