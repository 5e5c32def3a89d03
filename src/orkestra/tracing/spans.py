"""Spans as plain data, and their ids, computed from what the server has recorded.

A workflow's span is sent by whichever worker completes it, long after the processes that began it
may be gone, and a history may be read years later. So no id is random: every process computes the
same one from the same facts, and all of these facts are in the history. Workers build their spans
with `RunSpans` and `activity_span()`, and so does the backfill from a history, so both agree in
ids, parents, names and start times.

| id of | bytes | parts |
| --- | --- | --- |
| the trace of an execution chain | 16 | `trace`, namespace, workflow ID, first execution run ID |
| a run's workflow span | 8 | `workflow`, run ID |
| a signal's span | 8 | `signal`, run ID, ID of the event `WorkflowExecutionSignaled` |
| an update's span | 8 | `update`, run ID, update ID |
| an activity attempt's span | 8 | `activity`, run ID, activity ID, attempt, start time in ns |
| a timer's span | 8 | `timer`, run ID, timer ID |
| a Nexus operation's span | 8 | `nexus`, run ID, its number among those of the run, from 1 |
| a child that did not start | 8 | `child`, run ID, the child's workflow ID, start time in ns |
| a signal that did not arrive | 8 | `undelivered`, run ID, workflow ID, signal, start time |
| a query's span | 8 | `query`, run ID, query ID, start time in ns |

The id is the beginning of the SHA-256 of the parts, in lower-case hexadecimal. Each part is
written as its length in UTF-8 bytes, a colon and the bytes, so that no two lists of parts are
written alike. A standalone activity has its own ID and run ID in place of the workflow's.

The start times are the server's, cut to whole microseconds:

| start of | time |
| --- | --- |
| a workflow's span | of the event `WorkflowExecutionStarted` |
| an activity attempt's span | of `ActivityTaskStarted`, an event that only the last attempt has |
| a local activity attempt's span | of the workflow's clock when it was scheduled |
| all others | of the workflow's clock when it was delivered to, or issued by, the workflow's code |

The workflow's clock is `workflow.time_ns()`; `orkestra.temporal.backfill.history` derives it from
a history. A query is not in the history: its start time is the worker's.

A history does not tell whether a handler has taken a signal, nor when attempts of an activity
before the last one began. A reset run's history begins with events of the run that was reset,
whose spans are that run's.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

from orkestra.tracing.capture import Captured
from orkestra.tracing.context import MetadataValue, TraceAttributes, TraceContext

_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MICROSECOND_NS: Final = 1000
_NO_ATTRIBUTES: Final = TraceAttributes()


def trace_id_of(namespace: str, workflow_id: str, first_run_id: str) -> str:
    """Compute the trace id of an execution chain: all its retries, cron runs and continuations.

    Args:
        namespace: Namespace of the workflow.
        workflow_id: Workflow ID as the server has it.
        first_run_id: Run ID of the chain's first run.

    Returns:
        32 hexadecimal digits.
    """
    return _digest("trace", namespace, workflow_id, first_run_id)[:_TRACE_ID_DIGITS]


def workflow_span_id(run_id: str) -> str:
    """Compute the span id of one run of a workflow: 16 hexadecimal digits."""
    return _span_id("workflow", run_id)


def message_span_id(run_id: str, kind: Literal["signal", "update"], key: int | str) -> str:
    """Compute the span id of a signal (key: ID of its event) or an update (key: its ID)."""
    return _span_id(kind, run_id, str(key))


def activity_span_id(run_id: str, activity_id: str, attempt: int, start_ns: int) -> str:
    """Compute the span id of one attempt of an activity.

    The start time tells attempts of one number apart: resetting an activity begins again at 1.
    """
    return _span_id("activity", run_id, activity_id, str(attempt), str(start_ns))


def timer_span_id(run_id: str, timer_id: str) -> str:
    """Compute the span id of a timer."""
    return _span_id("timer", run_id, timer_id)


def nexus_span_id(run_id: str, number: int) -> str:
    """Compute the span id of the run's n-th Nexus operation, from 1."""
    return _span_id("nexus", run_id, str(number))


def child_span_id(run_id: str, child_id: str, start_ns: int) -> str:
    """Compute the span id of a child that did not start."""
    return _span_id("child", run_id, child_id, str(start_ns))


def undelivered_span_id(run_id: str, workflow_id: str, signal: str, start_ns: int) -> str:
    """Compute the span id of a signal that did not reach the workflow of the ID."""
    return _span_id("undelivered", run_id, workflow_id, signal, str(start_ns))


def query_span_id(run_id: str, query_id: str, start_ns: int) -> str:
    """Compute the span id of a query."""
    return _span_id("query", run_id, query_id, str(start_ns))


def nanoseconds(time: datetime) -> int:
    """Convert an aware time to nanoseconds since 1970, exactly; `timestamp()` would round."""
    return (time - _EPOCH) // _MICROSECOND * 1000


def _span_id(*parts: str) -> str:
    return _digest(*parts)[:_SPAN_ID_DIGITS]


def _digest(*parts: str) -> str:
    # IDs may contain lone surrogates, which strict UTF-8 refuses.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    written = b"".join([b"%d:%b" % (len(part), part) for part in encoded])
    return hashlib.sha256(written).hexdigest()


class SpanKind(StrEnum):
    """Kind of work that a span shows."""

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
    """Severity, in Langfuse's words."""

    DEFAULT = "DEFAULT"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Beginning of a span: ids in hexadecimal digits, the start in nanoseconds since 1970."""

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
    """End of a span; the message is the text of the error."""

    level: Level = Level.DEFAULT
    message: Captured | None = None
    output: Captured | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSpan:
    """Span that has ended, to be sent as a whole.

    Attributes:
        span: Its beginning.
        outcome: Its end.
        end_ns: Time of its end, in nanoseconds since 1970.
        added: Attributes that an activity's code has set on its span, by their names in Langfuse.
        name: Name that an activity's code has given its span.
    """

    span: Span
    outcome: Outcome
    end_ns: int
    added: Mapping[str, object] = field(default_factory=dict[str, object])
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class SpanCounts:
    """Numbers of spans so far.

    Attributes:
        sent: Spans that Langfuse has accepted.
        held: Spans of workflow code whose workflow task the server has not committed yet.
        waiting: Spans that wait to be sent.
        lost: Spans that will not be sent, by reason.
    """

    sent: int = 0
    held: int = 0
    waiting: int = 0
    lost: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def sum(cls, counts: "Iterable[SpanCounts]") -> "SpanCounts":
        """Add counts up."""
        every = list(counts)
        return cls(
            sent=sum(each.sent for each in every),
            held=sum(each.held for each in every),
            waiting=sum(each.waiting for each in every),
            lost=sum((Counter(each.lost) for each in every), Counter[str]()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts of a workflow run that its worker and its history agree in.

    Attributes:
        workflow_id: Workflow ID as the server has it.
        first_run_id: Run ID of the first run of its chain.
        start_ns: Time of the event `WorkflowExecutionStarted`, in nanoseconds since 1970.
        attempt: Number of the attempt of its retry policy, from 1.
        carried: Content of the trace header that it was started with.
        attributes: Attributes that the trace shows, the session filled in.
        ui_url: Address of Temporal's web interface, for the link.
    """

    namespace: str
    workflow_id: str
    run_id: str
    first_run_id: str
    workflow_type: str
    task_queue: str
    start_ns: int
    attempt: int = 1
    tenant: str | None = None
    carried: TraceContext = field(default_factory=TraceContext)
    attributes: TraceAttributes = field(default_factory=TraceAttributes)
    ui_url: str | None = None


class RunSpans:
    """Factory of the spans of one run."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        carried = facts.carried
        self.trace_id = carried.trace_id or trace_id_of(
            facts.namespace, facts.workflow_id, facts.first_run_id
        )
        # Of the run, not the chain, because each run has a span of its own.
        self.span_id = workflow_span_id(facts.run_id)
        # Later runs of a chain are children of the first. They carry its header, which names the
        # first run's parent.
        self.parent_id = (
            carried.span_id
            if facts.run_id == facts.first_run_id
            else workflow_span_id(facts.first_run_id)
        )
        self._metadata: dict[str, MetadataValue] = {
            "workflow_type": facts.workflow_type,
            "workflow_id": facts.workflow_id,
            "run_id": facts.run_id,
            "namespace": facts.namespace,
            "task_queue": facts.task_queue,
        }

    @property
    def context(self) -> TraceContext:
        """Context for what the run calls: below the run's own span."""
        return self.below(_NO_ATTRIBUTES)

    def below(self, attributes: TraceAttributes) -> TraceContext:
        """Make the context for what the run calls, with attributes of the trace."""
        return TraceContext(trace_id=self.trace_id, span_id=self.span_id, attributes=attributes)

    def operation_context(self, number: int) -> TraceContext:
        """Make the context for the run's n-th Nexus operation, from 1: its own span."""
        span_id = nexus_span_id(self.facts.run_id, number)
        return TraceContext(trace_id=self.trace_id, span_id=span_id)

    def workflow(self, *, input: Captured | None = None) -> Span:
        """Begin the run's own span: the root, or below its caller, parent or first run."""
        facts = self.facts
        metadata: dict[str, MetadataValue] = {"attempt": facts.attempt}
        if facts.ui_url is not None:
            metadata["temporal_ui"] = ui_link(
                facts.ui_url, facts.namespace, facts.workflow_id, facts.run_id
            )
        return self._span(
            SpanKind.WORKFLOW,
            self.span_id,
            facts.workflow_type,
            facts.start_ns,
            metadata,
            input=input,
            parent_id=self.parent_id,
        )

    def signal(
        self,
        name: str,
        *,
        key: int | str,
        start_ns: int,
        sender: TraceContext | None = None,
        input: Captured | None = None,
    ) -> Span:
        """Begin the span of a signal; the key is the ID of its event in the history.

        It starts at the workflow's clock when the signal was delivered.
        """
        span_id = message_span_id(self.facts.run_id, "signal", key)
        return self._span(SpanKind.SIGNAL, span_id, name, start_ns, _sender(sender), input=input)

    def update(
        self,
        name: str,
        *,
        update_id: str,
        start_ns: int,
        sender: TraceContext | None = None,
        input: Captured | None = None,
    ) -> Span:
        """Begin the span of an accepted update; the arguments are those of `signal()`."""
        span_id = message_span_id(self.facts.run_id, "update", update_id)
        metadata = {"update_id": update_id, **_sender(sender)}
        return self._span(SpanKind.UPDATE, span_id, name, start_ns, metadata, input=input)

    def query(
        self, name: str, *, query_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """Begin the span of a query; no history has it, and its start time is the worker's."""
        span_id = query_span_id(self.facts.run_id, query_id, _whole(start_ns))
        return self._span(SpanKind.QUERY, span_id, name, start_ns, {}, input=input)

    def timer(self, *, timer_id: str, start_ns: int, seconds: float) -> Span:
        """Begin the span of a timer that was started at the workflow's clock."""
        span_id = timer_span_id(self.facts.run_id, timer_id)
        metadata: dict[str, MetadataValue] = {"timer_id": timer_id, "seconds": seconds}
        return self._span(SpanKind.TIMER, span_id, "", start_ns, metadata)

    def nexus(
        self,
        *,
        number: int,
        endpoint: str,
        service: str,
        operation: str,
        start_ns: int,
        carried: TraceContext | None = None,
        input: Captured | None = None,
    ) -> Span:
        """Begin the span of a Nexus operation, whose number counts those of the run from 1.

        It starts at the workflow's clock when the operation was called. The header in the history,
        `carried`, has the span id.
        """
        metadata: dict[str, MetadataValue] = {
            "endpoint": endpoint,
            "service": service,
            "operation": operation,
        }
        span_id = carried.span_id if carried is not None else None
        # A workflow that ran without tracing sent no header.
        span_id = span_id or nexus_span_id(self.facts.run_id, number)
        name = f"{service}/{operation}"
        return self._span(SpanKind.NEXUS, span_id, name, start_ns, metadata, input=input)

    def child(
        self, workflow_type: str, *, child_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """Begin the span of a child that did not start; others have a workflow span."""
        span_id = child_span_id(self.facts.run_id, child_id, _whole(start_ns))
        metadata: dict[str, MetadataValue] = {"child_workflow_id": child_id}
        return self._span(SpanKind.CHILD, span_id, workflow_type, start_ns, metadata, input=input)

    def undelivered(
        self, signal: str, *, workflow_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """Begin the span of a signal that did not arrive; else the receiver has the span."""
        started = _whole(start_ns)
        span_id = undelivered_span_id(self.facts.run_id, workflow_id, signal, started)
        metadata: dict[str, MetadataValue] = {"target_workflow_id": workflow_id}
        return self._span(SpanKind.UNDELIVERED, span_id, signal, start_ns, metadata, input=input)

    def _span(
        self,
        kind: SpanKind,
        span_id: str,
        name: str,
        start_ns: int,
        metadata: Mapping[str, MetadataValue],
        *,
        input: Captured | None = None,
        parent_id: str | Literal[False] | None = False,
    ) -> Span:
        return Span(
            trace_id=self.trace_id,
            span_id=span_id,
            # None is a root, so False means the default: below the run's span.
            parent_id=self.span_id if parent_id is False else parent_id,
            kind=kind,
            name=f"{kind}:{name}" if name else kind.value,
            start_ns=_whole(start_ns),
            run_id=self.facts.run_id,
            tenant=self.facts.tenant,
            attributes=self.facts.attributes,
            metadata={**self._metadata, **metadata},
            input=input,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """Facts of one attempt of an activity that its worker and its history agree in.

    Attributes:
        workflow_id: Workflow ID; None for a standalone activity.
        workflow_type: Workflow type; None for a standalone activity.
        run_id: Run ID of the workflow, or of a standalone activity.
        attempt: Number of the attempt, from 1.
        start_ns: Time of the event `ActivityTaskStarted`; of a local activity the workflow's clock
            when it was scheduled. In nanoseconds since 1970.
        carried: Content of its trace header. The history has none for a local activity, whose
            worker gets `RunSpans.context`.
        attributes: Attributes that the trace shows.
    """

    namespace: str
    workflow_id: str | None
    workflow_type: str | None
    run_id: str
    activity_id: str
    activity_type: str
    task_queue: str
    attempt: int
    start_ns: int
    is_local: bool = False
    tenant: str | None = None
    carried: TraceContext = field(default_factory=TraceContext)
    attributes: TraceAttributes = field(default_factory=TraceAttributes)


def activity_span(
    facts: AttemptFacts,
    *,
    input: Captured | None = None,
    of_worker: Mapping[str, MetadataValue] = MappingProxyType({}),
) -> Span:
    """Begin the span of an activity's attempt.

    Without a trace header the attempt is a child of its run, taken for the first of its chain.

    Args:
        facts: Facts of the attempt.
        input: Snapshot of its arguments.
        of_worker: Metadata that only its worker knows.
    """
    owner_id = facts.workflow_id or facts.activity_id
    parent_id = facts.carried.span_id
    # A workflow that ran without tracing sends no header with its activities.
    if facts.carried.trace_id is None and facts.workflow_id is not None:
        parent_id = workflow_span_id(facts.run_id)
    start_ns = _whole(facts.start_ns)
    metadata: dict[str, Any] = {
        "activity_id": facts.activity_id,
        "attempt": facts.attempt,
        "run_id": facts.run_id,
        "namespace": facts.namespace,
        "task_queue": facts.task_queue,
        "is_local": facts.is_local,
        "workflow_id": facts.workflow_id,
        "workflow_type": facts.workflow_type,
        **of_worker,
    }
    return Span(
        trace_id=facts.carried.trace_id or trace_id_of(facts.namespace, owner_id, facts.run_id),
        span_id=activity_span_id(facts.run_id, facts.activity_id, facts.attempt, start_ns),
        parent_id=parent_id,
        kind=SpanKind.ACTIVITY,
        name=f"{SpanKind.ACTIVITY}:{facts.activity_type}",
        start_ns=start_ns,
        run_id=facts.run_id,
        tenant=facts.tenant,
        attributes=facts.attributes,
        metadata={key: value for key, value in metadata.items() if value is not None},
        input=input,
    )


def ui_link(ui_url: str, namespace: str, workflow_id: str, run_id: str) -> str:
    """Link to the page of a run in Temporal's web interface."""
    space, workflow, run = (quote(part, safe="") for part in (namespace, workflow_id, run_id))
    return f"{ui_url.rstrip('/')}/namespaces/{space}/workflows/{workflow}/{run}"


def _sender(sender: TraceContext | None) -> dict[str, MetadataValue]:
    if sender is None or not sender.trace_id or not sender.span_id:
        return {}
    return {"sender_trace_id": sender.trace_id, "sender_span_id": sender.span_id}


def _whole(time_ns: int) -> int:
    # Python's times, from which workers compute, have no nanoseconds.
    return time_ns // _MICROSECOND_NS * _MICROSECOND_NS
