"""A span around the running task, sent as a whole when it has ended."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final

from orkestra.config import LangfuseSettings
from orkestra.langfuse.attributes import Attributes, Ended, Taker
from orkestra.tracing import Outcome, Span, SpanRecord

if TYPE_CHECKING:
    from orkestra.langfuse.observe import Current


_logger: Final = logging.getLogger(__name__)


class Attempt:
    """A `LiveSpan`; it is sent even where nothing could be made current."""

    def __init__(self, span: Span, put: Callable[[Ended], None]) -> None:
        """Nothing is current yet.

        Args:
            span: How it begins.
            put: Takes it when it has ended.
        """
        self._span = span
        self._put = put
        self._current: Current | None = None

    def begin(self, taker: Taker, settings: LangfuseSettings, labels: Attributes | None) -> None:
        """Make it the current one.

        Args:
            taker: Takes what is observed inside.
            settings: Their project.
            labels: What every span of the trace carries; None where the trace is not sent.
        """
        from orkestra.langfuse.observe import Current  # noqa: PLC0415 - imports OpenTelemetry

        self._current = Current(self._span, taker, settings, labels)

    def through(self, pool: Executor) -> Executor:
        """See base class."""
        return pool if self._current is None else self._current.through(pool)

    def end(self, outcome: Outcome) -> None:
        """See base class."""
        ended = Ended(SpanRecord(span=self._span, outcome=outcome, end_ns=time.time_ns()))
        try:
            if self._current is not None:
                ended = self._current.ended(ended.record)
        except Exception:
            _logger.exception("What was put on the span of an attempt was lost")
        self._put(ended)
