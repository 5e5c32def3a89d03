"""Where spans go."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from orkestra.tracing.capture import CaptureLimits
from orkestra.tracing.spans import LiveSpan, Span, SpanRecord


@dataclass(frozen=True, slots=True)
class Caller:
    """The span that the running code is in.

    Attributes:
        trace_id: Its trace, as 32 hexadecimal digits.
        span_id: Its span, as 16 hexadecimal digits.
        is_joined: Whether a workflow started now hangs under it; else it is linked to it only.
    """

    trace_id: str
    span_id: str
    is_joined: bool = True


@dataclass(frozen=True, kw_only=True)
class SpanCounts:
    """What became of spans so far.

    Attributes:
        sent: Spans that Langfuse has taken.
        held: Spans of workflow code that wait for the server to take what made them.
        waiting: Spans that wait to be sent.
        lost: Spans that will not be sent, by reason.
    """

    sent: int = 0
    held: int = 0
    waiting: int = 0
    lost: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def sum(cls, counts: "Iterable[SpanCounts]") -> "SpanCounts":
        """All of them together."""
        every = list(counts)
        return cls(
            sent=sum(each.sent for each in every),
            held=sum(each.held for each in every),
            waiting=sum(each.waiting for each in every),
            lost=sum((Counter(each.lost) for each in every), Counter[str]()),
        )


class TraceProject(Protocol):
    """Where the spans of one tenant go, for whoever sends what is missing of a trace."""

    @property
    def limits(self) -> CaptureLimits:
        """What of arguments and results may be captured."""
        ...

    def is_sampled(self, span: Span) -> bool:
        """Whether the span's trace is sent."""
        ...

    def emit(self, record: SpanRecord) -> None:
        """Take a span that has ended, as a sink does."""
        ...

    async def flush(self, timeout: timedelta) -> bool:
        """Send what waits to be sent, as a sink does."""
        ...

    async def present(self, trace_id: str, timeout: timedelta) -> frozenset[str]:
        """Ask which spans of a trace are there.

        Args:
            trace_id: The trace, as 32 hexadecimal digits.
            timeout: How long each step of a request may take.

        Returns:
            Their ids, as 16 hexadecimal digits.

        Raises:
            LangfuseUnavailableError: There is no answer.
        """
        ...


class TraceSink(Protocol):
    """Takes spans and sends them. No method waits for the network, except for its time-out."""

    @property
    def limits(self) -> CaptureLimits:
        """What of arguments and results may be captured."""
        ...

    def start(self) -> None:
        """Prepare in the background, so that the first span need not wait. May be called again."""
        ...

    async def opened(self) -> None:
        """Prepare, and wait until that is done; for some seconds at most, and never raises.

        A worker does so before it takes work, which would otherwise wait for it.
        """
        ...

    def emit(self, record: SpanRecord) -> None:
        """Take a span that has ended. Never blocks and never raises; what is lost is counted."""
        ...

    async def enter(self, span: Span) -> LiveSpan | None:
        """Begin a span around the running task.

        Args:
            span: How it begins.

        Returns:
            The span, to be ended in the same task; None where the work goes on untraced.
        """
        ...

    def caller(self, tenant: str | None) -> Caller | None:
        """The span that the running code is in, and whether the tenant's workflows may join it.

        Args:
            tenant: For whom a workflow is about to be started.
        """
        ...

    async def project(self, tenant: str | None) -> TraceProject | None:
        """Where the spans of a tenant go; None where they are not sent.

        Args:
            tenant: The tenant; None for what belongs to none.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        ...

    async def flush(self, timeout: timedelta) -> bool:
        """Send what waits to be sent.

        Args:
            timeout: How long to wait at most.

        Returns:
            Whether all was sent in time.
        """
        ...

    async def close(self, timeout: timedelta) -> bool:
        """Flush and let go of everything; may be called again.

        Args:
            timeout: How long to wait at most.

        Returns:
            Whether all was sent in time.
        """
        ...
