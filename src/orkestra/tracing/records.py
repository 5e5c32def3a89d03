"""Spans as plain data, which cross from the workflow sandbox to the host in one call."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from orkestra.tracing.attributes import MetadataValue, TraceAttributes
from orkestra.tracing.capture import Captured


class SpanKind(StrEnum):
    """What a span shows."""

    WORKFLOW = "workflow"
    ACTIVITY = "activity"
    SIGNAL = "signal"
    UPDATE = "update"
    QUERY = "query"
    TIMER = "timer"
    NEXUS = "nexus"
    CHILD = "child"
    UNDELIVERED = "undelivered"


class Level(StrEnum):
    """How it ended, in Langfuse's words."""

    DEFAULT = "DEFAULT"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is known of a span when it begins.

    Attributes:
        trace_id: The trace, as 32 hexadecimal digits.
        span_id: The span, as 16 hexadecimal digits.
        parent_id: The span it hangs under; None for the root.
        kind: What it shows.
        name: Its name, for instance `workflow:Order`.
        start_ns: When it began, in nanoseconds since 1970.
        run_id: The workflow run that it belongs to.
        tenant: The tenant that it belongs to.
        attributes: Attributes of the whole trace.
        metadata: More about this span.
        input: Arguments, where they are captured.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    kind: SpanKind
    name: str
    start_ns: int
    run_id: str
    tenant: str | None
    attributes: TraceAttributes
    metadata: Mapping[str, MetadataValue]
    input: Captured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a span ended.

    Attributes:
        level: Whether it went well.
        message: What went wrong.
        output: The result, where it is captured.
        metadata: More about the end.
    """

    level: Level = Level.DEFAULT
    message: Captured | None = None
    output: Captured | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """A span that has ended, to be sent as a whole.

    Attributes:
        span: How it began.
        outcome: How it ended.
        end_ns: When it ended, in nanoseconds since 1970.
    """

    span: Span
    outcome: Outcome
    end_ns: int


class LiveSpan(Protocol):
    """A span that the running code is in: what the code observes nests under it."""

    def through(self, pool: Executor) -> Executor:
        """A pool of processes in which the span is the current one, too.

        Args:
            pool: The pool that runs the code.
        """
        ...

    def end(self, outcome: Outcome) -> None:
        """Leave the span and send it; never raises."""
        ...
