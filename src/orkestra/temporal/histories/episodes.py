"""What a history tells of one thing that happened: a span, ended or still going on."""

from dataclasses import dataclass

from orkestra.tracing import Outcome, Span, SpanRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A span as far as the history has it.

    Attributes:
        span: How it began.
        outcome: How it ended; None where that is not known.
        end_ns: When it ended, in nanoseconds since 1970; None where that is not known.
        is_abandoned: Whether its run ended without waiting for it; else what has no end yet is
            going on.
    """

    span: Span
    outcome: Outcome | None = None
    end_ns: int | None = None
    is_abandoned: bool = False

    @property
    def record(self) -> SpanRecord | None:
        """The span as it is sent; None where it has no end."""
        if self.outcome is None or self.end_ns is None:
            return None
        return SpanRecord(span=self.span, outcome=self.outcome, end_ns=self.end_ns)
