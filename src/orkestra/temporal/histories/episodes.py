"""What a history tells of one thing that happened: a span, ended or still going on."""

from dataclasses import dataclass

from orkestra.tracing import Outcome, Span, SpanRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A span as far as the history has it.

    Attributes:
        span: How it began.
        outcome: How it ended; None while it is going on.
        end_ns: When it ended, in nanoseconds since 1970; None while it is going on.
    """

    span: Span
    outcome: Outcome | None = None
    end_ns: int | None = None

    @property
    def record(self) -> SpanRecord | None:
        """The span as it is sent; None while it is going on."""
        if self.outcome is None or self.end_ns is None:
            return None
        return SpanRecord(span=self.span, outcome=self.outcome, end_ns=self.end_ns)
