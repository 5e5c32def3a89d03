"""Spans that code runs in, and spans that are written once they have ended."""

import logging
import time
from contextlib import ExitStack
from typing import Any, Final

from langfuse import propagate_attributes
from opentelemetry import baggage, context, trace
from opentelemetry.trace import Status, StatusCode

from orkestra.langfuse import sdk
from orkestra.langfuse.losses import Loss
from orkestra.langfuse.naming import Describer
from orkestra.langfuse.origin import Origin, mark
from orkestra.langfuse.pipeline import Pipeline
from orkestra.tracing import Level, Outcome, Span, SpanRecord

_logger: Final = logging.getLogger(__name__)


def write(pipeline: Pipeline, describer: Describer, record: SpanRecord) -> None:
    """Send a span that has ended."""
    if not pipeline.is_sampled(record.span):
        return
    span = record.span
    started, _ = pipeline.start(span, describer.name(span), describer.at_start(span))
    _finish(started, describer, record.outcome, max(span.start_ns, record.end_ns))


class CurrentSpan:
    """A span around the running task, which what the task observes nests under."""

    def __init__(self, pipeline: Pipeline, describer: Describer, span: Span) -> None:
        """Start the span and make it the current one."""
        self._pipeline = pipeline
        self._describer = describer
        self._span = span
        self._stack = ExitStack()
        is_sampled = pipeline.is_sampled(span)
        attributes = describer.at_start(span) if is_sampled else None
        name = describer.name(span) if is_sampled else span.name
        self._started, under = pipeline.start(span, name, attributes)
        mark(self._started, Origin(span.tenant))
        with ExitStack() as entering:
            outside = baggage.set_baggage(sdk.TRACE_ID_BAGGAGE, span.trace_id, under)
            entering.callback(context.detach, context.attach(outside))
            entering.enter_context(sdk.client_in_context(pipeline.public_key))
            if is_sampled:
                # Entered outside the span, which has these attributes already.
                entering.enter_context(_propagated(describer, span))
            inside = trace.set_span_in_context(self._started)
            entering.callback(context.detach, context.attach(inside))
            self._stack = entering.pop_all()

    def end(self, outcome: Outcome) -> None:
        """Leave the span and send it; never raises."""
        try:
            self._stack.close()
            if self._started.is_recording():
                end_ns = max(self._span.start_ns, time.time_ns())
                _finish(self._started, self._describer, outcome, end_ns)
        except Exception as error:  # noqa: BLE001 - the work is done, and must not fail for its span
            self._pipeline.losses.count(Loss.INTERNAL, 1, repr(error))


def _propagated(describer: Describer, span: Span) -> Any:
    """What the SDK puts on every observation that is made inside."""
    return propagate_attributes(
        user_id=describer.user(span),
        session_id=describer.session(span),
        tags=describer.tags(span),
        metadata=dict(describer.masked(describer.trace_metadata(span))),
        version=describer.version,
    )


def _finish(started: trace.Span, describer: Describer, outcome: Outcome, end_ns: int) -> None:
    started.set_attributes(describer.at_end(outcome))
    if outcome.level is Level.ERROR:
        started.set_status(Status(StatusCode.ERROR, describer.message(outcome)))
    started.end(end_time=end_ns)
