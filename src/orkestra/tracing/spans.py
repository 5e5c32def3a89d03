"""What every span of a run looks like, from plain facts: the same on its worker and from history.

Workers build their spans here, and so does whoever rebuilds a trace from a history. So the two are
alike in ids, parents, names and start times: `orkestra.tracing.ids` says how they are computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

from orkestra.tracing.attributes import MetadataValue, TraceAttributes
from orkestra.tracing.capture import Captured
from orkestra.tracing.context import TraceContext
from orkestra.tracing.ids import (
    activity_span_id,
    child_span_id,
    message_span_id,
    nexus_span_id,
    query_span_id,
    timer_span_id,
    trace_id_of,
    undelivered_span_id,
    workflow_span_id,
)
from orkestra.tracing.records import Span, SpanKind

_MICROSECOND: Final = 1000
_NO_ATTRIBUTES: Final = TraceAttributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What its worker and its history know of a workflow run.

    Attributes:
        namespace: Its namespace.
        workflow_id: Its workflow ID as the server has it.
        run_id: Its run ID.
        first_run_id: Run ID of the first run of its chain.
        workflow_type: Its type.
        task_queue: Its task queue.
        start_ns: Time of the event `WorkflowExecutionStarted`, in nanoseconds since 1970.
        attempt: Which attempt of its retry policy it is.
        tenant: Its tenant.
        carried: What the trace header of its start says.
        attributes: The trace's attributes as they are shown, the session filled in.
        ui_url: Where Temporal's web interface is, for the link.
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
    """The spans of one run; each method says how one begins."""

    def __init__(self, facts: RunFacts) -> None:
        """Hash what all spans of the run share."""
        self.facts = facts
        carried = facts.carried
        self.trace_id = carried.trace_id or trace_id_of(
            facts.namespace, facts.workflow_id, facts.first_run_id
        )
        self.span_id = workflow_span_id(facts.run_id)
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
        """Where what the run does stands: below the run's own span."""
        return self.below(_NO_ATTRIBUTES)

    def below(self, attributes: TraceAttributes) -> TraceContext:
        """The same, with attributes to tell."""
        return TraceContext(trace_id=self.trace_id, span_id=self.span_id, attributes=attributes)

    def operation_context(self, number: int) -> TraceContext:
        """What the run's n-th Nexus operation is told, from 1: its own span."""
        span_id = nexus_span_id(self.facts.run_id, number)
        return TraceContext(trace_id=self.trace_id, span_id=span_id)

    def workflow(self, *, input: Captured | None = None) -> Span:
        """The run's own span: the root, or below the caller's, the parent's or the first run's."""
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
        """A signal that the run took.

        Args:
            name: The signal's name.
            key: The ID of its event in the history.
            start_ns: The workflow's clock when it was delivered.
            sender: What its trace header says.
            input: Its arguments.
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
        """An update that the run accepted.

        Args:
            name: The update's name.
            update_id: Its ID.
            start_ns: The workflow's clock when it was delivered.
            sender: What its trace header says.
            input: Its arguments.
        """
        span_id = message_span_id(self.facts.run_id, "update", update_id)
        metadata = {"update_id": update_id, **_sender(sender)}
        return self._span(SpanKind.UPDATE, span_id, name, start_ns, metadata, input=input)

    def query(
        self, name: str, *, query_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """A query; no history has it, and its start time is the worker's."""
        span_id = query_span_id(self.facts.run_id, query_id, _whole(start_ns))
        return self._span(SpanKind.QUERY, span_id, name, start_ns, {}, input=input)

    def timer(self, *, timer_id: str, start_ns: int, seconds: float) -> Span:
        """A timer.

        Args:
            timer_id: Its ID in the history.
            start_ns: The workflow's clock when it was started.
            seconds: After which time it was to fire.
        """
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
        """A Nexus operation that the run called.

        Args:
            number: Its number among those of the run, from 1.
            endpoint: The endpoint.
            service: The service.
            operation: The operation.
            start_ns: The workflow's clock when it was called.
            carried: What its trace header says in the history; it names the span.
            input: Its argument.
        """
        metadata: dict[str, MetadataValue] = {
            "endpoint": endpoint,
            "service": service,
            "operation": operation,
        }
        told = carried.span_id if carried is not None else None
        span_id = told or nexus_span_id(self.facts.run_id, number)
        name = f"{service}/{operation}"
        return self._span(SpanKind.NEXUS, span_id, name, start_ns, metadata, input=input)

    def child(
        self, workflow_type: str, *, child_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """A child that did not start; one that does has a workflow span of its own.

        Args:
            workflow_type: The child's type.
            child_id: The child's workflow ID.
            start_ns: The workflow's clock when it was to be started.
            input: Its arguments.
        """
        span_id = child_span_id(self.facts.run_id, child_id, _whole(start_ns))
        metadata: dict[str, MetadataValue] = {"child_workflow_id": child_id}
        return self._span(SpanKind.CHILD, span_id, workflow_type, start_ns, metadata, input=input)

    def undelivered(
        self, signal: str, *, workflow_id: str, start_ns: int, input: Captured | None = None
    ) -> Span:
        """A signal to another workflow that it did not get; else the receiver has the span.

        Args:
            signal: The signal's name.
            workflow_id: The workflow that was to get it.
            start_ns: The workflow's clock when it was sent.
            input: Its arguments.
        """
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
    """What its worker and its history know of one attempt of an activity.

    Attributes:
        namespace: Its namespace.
        workflow_id: Workflow ID; None for a standalone activity.
        workflow_type: Workflow type; None for a standalone activity.
        run_id: Run ID of the workflow, or of a standalone activity.
        activity_id: Its activity ID.
        activity_type: Its type.
        task_queue: Its task queue.
        attempt: Number of the attempt, from 1.
        start_ns: Time of the event `ActivityTaskStarted`; of a local activity the workflow's clock
            when it was scheduled. In nanoseconds since 1970.
        is_local: Whether it is a local activity.
        tenant: Its tenant.
        carried: What its trace header says. The history has none for a local activity, whose
            worker is told where its run stands, `RunSpans.context`.
        attributes: The trace's attributes as they are shown.
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
    """How the span of an activity's attempt begins.

    An attempt that was scheduled without a trace header stands below its run, whose first run it
    takes to be the same.

    Args:
        facts: What is known of it.
        input: Its arguments.
        of_worker: Metadata that only its worker knows.
    """
    owner_id = facts.workflow_id or facts.activity_id
    parent_id = facts.carried.span_id
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
    """The page of a run in Temporal's web interface."""
    space, workflow, run = (quote(part, safe="") for part in (namespace, workflow_id, run_id))
    return f"{ui_url.rstrip('/')}/namespaces/{space}/workflows/{workflow}/{run}"


def _sender(sender: TraceContext | None) -> dict[str, MetadataValue]:
    if sender is None or not sender.trace_id or not sender.span_id:
        return {}
    return {"sender_trace_id": sender.trace_id, "sender_span_id": sender.span_id}


def _whole(time_ns: int) -> int:
    return time_ns // _MICROSECOND * _MICROSECOND
