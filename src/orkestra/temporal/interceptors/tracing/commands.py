"""What a run's commands and their resolutions tell, where the SDK has no interceptor for it.

Timers, Nexus operations, children that do not start and signals that do not arrive have spans by
what went to the server and what came back from it: that is what the history has of them, too.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.nexus import NexusOperationResult
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from orkestra.temporal.interceptors.tracing.header import read_nexus_header
from orkestra.temporal.interceptors.tracing.outcomes import outcome_of_record
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    Outcome,
    RunSpans,
    Span,
    SpanKind,
    SpanRecord,
    capture,
)

_BEGIN: Final = frozenset(
    {
        "schedule_nexus_operation",
        "signal_external_workflow_execution",
        "start_child_workflow_execution",
        "start_timer",
    }
)
_UNRECORDED: Final = frozenset(
    {"request_cancel_local_activity", "respond_to_query", "schedule_local_activity"}
)
_CLOSE: Final = frozenset(
    {
        "cancel_workflow_execution",
        "complete_workflow_execution",
        "continue_as_new_workflow_execution",
        "fail_workflow_execution",
    }
)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A command that went to the server, and when by the workflow's clock."""

    command: Any
    start_ns: int
    number: int


class RunCommands:
    """Follows the commands of one run; makes spans of those that end while it is not replayed.

    Attributes:
        spans: What the run's spans look like, once its code has asked.
        delivered: The workflow's clock when a signal was delivered, by the ID of its event.
        local: Local activities that run, by their numbers.
        is_recorded: Whether the task that goes on has left anything in the history: if not, it is
            done again as one with the next, even after the server has taken it.
        is_closing: Whether the run has said that it is over.
        is_told: Whether the run's own span has been made.
    """

    def __init__(self, limits: CaptureLimits, timer_threshold: timedelta | None) -> None:
        """Capture within the limits; make spans of timers that took as long, of none for None."""
        self.spans: RunSpans | None = None
        self.delivered: dict[int, int] = {}
        self.local: set[int] = set()
        self.is_recorded = False
        self.is_closing = False
        self.is_told = False
        self._limits = limits
        self._threshold = timer_threshold
        self._begun: dict[tuple[str, int], _Begun] = {}
        self._operations = 0
        self._now_ns = 0
        self._is_replaying = True

    def resolved(self, activation: WorkflowActivation) -> Iterator[SpanRecord]:
        """The spans that end with what the activation brings."""
        self._now_ns = activation.timestamp.ToNanoseconds()
        self._is_replaying = activation.is_replaying
        for job in activation.jobs:
            kind = job.WhichOneof("variant")
            if kind == "signal_workflow":
                self.delivered[job.signal_workflow.originating_event_id] = self._now_ns
            elif kind == "resolve_activity":
                self.is_recorded |= job.resolve_activity.seq in self.local
                self.local.discard(job.resolve_activity.seq)
            elif kind == "fire_timer":
                yield from self._timer(job.fire_timer.seq, "fired")
            elif kind is not None and kind.startswith("resolve_"):
                yield from self._resolution(kind, job)

    def issued(
        self, completion: WorkflowActivationCompletion, held: list[SpanRecord]
    ) -> Iterator[SpanRecord]:
        """The spans that end with the commands; takes note of what the commands begin.

        Args:
            completion: With the commands.
            held: The spans that the run has made; where a command says that the run failed, its
                own span there is made to say so, too.
        """
        for command in completion.successful.commands:
            kind = command.WhichOneof("variant")
            self.is_recorded |= kind not in _UNRECORDED
            if kind == "schedule_local_activity":
                self.local.add(command.schedule_local_activity.seq)
            elif kind == "cancel_timer":
                yield from self._timer(command.cancel_timer.seq, "cancelled")
            elif kind in _BEGIN:
                begun = getattr(command, kind)
                self._operations += kind == "schedule_nexus_operation"
                self._begun[kind, begun.seq] = _Begun(begun, self._now_ns, self._operations)
            elif kind in _CLOSE:
                self.is_closing = True
                if kind == "fail_workflow_execution":
                    yield from self._failed(command.fail_workflow_execution.failure, held)

    def _resolution(self, kind: str, job: WorkflowActivationJob) -> Iterator[SpanRecord]:
        end = getattr(job, kind)
        if kind == "resolve_nexus_operation":
            begun = self._begun.pop(("schedule_nexus_operation", end.seq), None)
            outcome = self._operation_outcome(end.result)
            yield from self._record(begun, outcome, self._operation_span)
        elif kind == "resolve_nexus_operation_start":
            if end.HasField("failed"):
                begun = self._begun.pop(("schedule_nexus_operation", end.seq), None)
                outcome = outcome_of_record(end.failed)
                yield from self._record(begun, outcome, self._operation_span)
        elif kind == "resolve_child_workflow_execution_start":
            begun = self._begun.pop(("start_child_workflow_execution", end.seq), None)
            if end.HasField("failed"):
                failure = Failure(message="a workflow of this ID already exists")
                yield from self._record(begun, outcome_of_record(failure), self._child_span)
        elif kind == "resolve_signal_external_workflow":
            begun = self._begun.pop(("signal_external_workflow_execution", end.seq), None)
            if end.HasField("failure") and not end.failure.HasField("canceled_failure_info"):
                yield from self._record(begun, outcome_of_record(end.failure), self._signal_span)

    def _timer(self, seq: int, status: str) -> Iterator[SpanRecord]:
        begun = self._begun.pop(("start_timer", seq), None)
        if begun is None or self._threshold is None or begun.start_ns == self._now_ns:
            return
        if timedelta(microseconds=(self._now_ns - begun.start_ns) // 1000) >= self._threshold:
            yield from self._record(begun, Outcome(metadata={"status": status}), _timer_span)

    def _record(self, begun: _Begun | None, outcome: Outcome, span: Any) -> Iterator[SpanRecord]:
        if begun is not None and self.spans is not None and not self._is_replaying:
            yield SpanRecord(span=span(self.spans, begun), outcome=outcome, end_ns=self._now_ns)

    def _failed(self, failure: Failure, held: list[SpanRecord]) -> Iterator[SpanRecord]:
        """The run failed for what its code did not see: an argument, or a command refused."""
        outcome = outcome_of_record(failure)
        for index, record in enumerate(held):
            if record.span.kind is SpanKind.WORKFLOW:
                if record.outcome.metadata.get("status") != "failed":
                    held[index] = replace(record, outcome=outcome)
                return
        if self.spans is not None and not self.is_told and not self._is_replaying:
            yield SpanRecord(span=self.spans.workflow(), outcome=outcome, end_ns=self._now_ns)

    def _operation_outcome(self, result: NexusOperationResult) -> Outcome:
        status = result.WhichOneof("status")
        if status != "completed":
            return outcome_of_record(getattr(result, status or "failed"))
        output = self._picture(result.completed) if self._limits.output else None
        return Outcome(output=output, metadata={"status": "completed"})

    def _operation_span(self, spans: RunSpans, begun: _Begun) -> Span:
        command = begun.command
        return spans.nexus(
            number=begun.number,
            endpoint=command.endpoint,
            service=command.service,
            operation=command.operation,
            start_ns=begun.start_ns,
            carried=read_nexus_header(command.nexus_header),
            input=self._picture(command.input) if self._limits.input else None,
        )

    def _child_span(self, spans: RunSpans, begun: _Begun) -> Span:
        command = begun.command
        return spans.child(
            command.workflow_type,
            child_id=command.workflow_id,
            start_ns=begun.start_ns,
            input=self._pictures(command.input),
        )

    def _signal_span(self, spans: RunSpans, begun: _Begun) -> Span:
        command = begun.command
        return spans.undelivered(
            command.signal_name,
            workflow_id=command.child_workflow_id or command.workflow_execution.workflow_id,
            start_ns=begun.start_ns,
            input=self._pictures(command.args),
        )

    def _pictures(self, payloads: Any) -> Captured | None:
        if not self._limits.input:
            return None
        shown = [self._picture(payload) for payload in payloads]
        whole = capture([each.value for each in shown], max_bytes=self._limits.max_bytes)
        return replace(whole, is_cut=whole.is_cut or any(each.is_cut for each in shown))

    def _picture(self, payload: Payload) -> Captured:
        """A picture of a payload that no codec hides any more; only JSON can be looked into."""
        limit = self._limits.max_bytes
        encoding = payload.metadata.get("encoding", b"").decode(errors="replace")
        if encoding == "binary/null":
            return Captured(None)
        if encoding.startswith("json/") and len(payload.data) <= 4 * limit:
            with suppress(ValueError, RecursionError):
                return capture(json.loads(payload.data), max_bytes=limit)
        return capture(f"<{len(payload.data)} bytes of {encoding}>", max_bytes=limit)


def _timer_span(spans: RunSpans, begun: _Begun) -> Span:
    seconds = begun.command.start_to_fire_timeout.ToTimedelta().total_seconds()
    return spans.timer(timer_id=str(begun.command.seq), start_ns=begun.start_ns, seconds=seconds)
