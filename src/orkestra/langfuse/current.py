"""What is current while an attempt runs."""

from concurrent.futures import Executor

from orkestra.config import LangfuseSettings
from orkestra.langfuse.children import ChildSpans
from orkestra.langfuse.items import Ended, Taker
from orkestra.langfuse.live import AttemptSpan, Inside, entered
from orkestra.langfuse.naming import Attributes
from orkestra.langfuse.observing import join_global_provider
from orkestra.tracing import Span, SpanRecord


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
