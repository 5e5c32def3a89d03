"""Spans of workflow code wait here until the server has taken the workflow task that made them.

The server may refuse what a worker makes of a workflow task: a signal came in between, or the task
had timed out because the worker stood still. The task is then done again, perhaps elsewhere, and
not under replay: its spans would be sent twice, and Langfuse keeps both. So they are held for a
while, seconds at most. The core does not tell that a task was taken, but it tells everything else:

- a later task of the run, or an eviction because the run is over: it was taken. A heartbeat that
  left nothing in the history is no task: while local activities run, the task goes on;
- an eviction for a reason that blames it, or a failure of the task itself: it was not;
- an eviction for another reason, such as a full cache, may have come over one that blames the task.
  If the run comes back, the task is replayed if it was taken, and skipped if it was not;
- nothing of it for some time after the last activation of the task: it was taken. The time is
  counted in ticks of a thread, because a process that was stopped must not take the time that it
  slept for an answer.

What is held when the process is killed is lost, until the trace is rebuilt from the history.

What a run's commands and their resolutions tell, where the SDK has no interceptor for it.

Timers, Nexus operations, children that do not start and signals that do not arrive have spans by
what went to the server and what came back from it: that is what the history has of them, too.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.worker import WorkflowInstanceDetails

from orkestra.temporal._sdk import (
    NexusOperationResult,
    RemoveFromCache,
    WorkflowActivation,
    WorkflowActivationCompletion,
    WorkflowActivationJob,
)
from orkestra.temporal.tracing.headers import outcome_of_record, read_nexus_header
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


_logger: Final = logging.getLogger(__name__)

TAKEN: Final = frozenset({RemoveFromCache.WORKFLOW_EXECUTION_ENDING})
"""Evictions that say that the server took what the run did last."""

OPEN: Final = frozenset(
    {
        RemoveFromCache.CACHE_FULL,
        RemoveFromCache.CACHE_MISS,
        RemoveFromCache.LANG_REQUESTED,
        RemoveFromCache.PAGINATION_OR_HISTORY_FETCH,
    }
)
"""Evictions that say nothing about it; all others say that the server did not."""

TICK: Final = timedelta(milliseconds=500)
TICKS: Final = 6
MAX_HELD: Final = 2_000
"""Records held at once; those beyond are sent at once, and may be sent twice."""

_MAX_INTERRUPTED: Final = 1_000

Send = Callable[[SpanRecord], None]

_current: ContextVar["RunOutbox | None"] = ContextVar("orkestra_run_outbox", default=None)


def current_run() -> "RunOutbox | None":
    """The outbox of the run whose workflow code is running; None where the runner has no hook."""
    return _current.get()


class Outbox:
    """Holds the spans of all runs of a process, and releases them in time."""

    def __init__(
        self, send: Send, *, limits: CaptureLimits, timer_threshold: timedelta | None = None
    ) -> None:
        """Hold what is for sending.

        Args:
            send: Takes what is released; must neither block nor raise.
            limits: What of values may be captured.
            timer_threshold: Timers that took as long have spans; None means that none have.
        """
        self._send = send
        self._limits = limits
        self._timer_threshold = timer_threshold
        self._lock = threading.Lock()
        self._waiting: dict[RunOutbox, int] = {}
        self._evicted: dict[str, RunOutbox] = {}
        self._interruptions: dict[str, int] = {}
        self._held = 0
        self._thread: threading.Thread | None = None
        self._is_told = False

    @property
    def held(self) -> int:
        """How many spans are held."""
        return self._held

    def hook(self, details: WorkflowInstanceDetails) -> "RunOutbox":
        """The hook of one run, for `orkestra.temporal.run_hooks.with_run_hooks()`."""
        commands = RunCommands(self._limits, self._timer_threshold)
        info = details.info
        interruptions = self._interruptions.get(info.run_id, 0)
        return RunOutbox(self, commands, info.run_id, info.task_queue, interruptions)

    def take(self, record: SpanRecord) -> None:
        """Take a span of the run whose code is running."""
        run = _current.get()
        if run is not None:
            run.hold(record)
            return
        if not self._is_told:
            self._is_told = True
            _logger.warning(
                "The workflow runner is not one that OrkestraPlugin has wrapped: spans of workflow"
                " code are sent at once, and twice where the server refuses a workflow task"
            )
        self._send(record)

    def hold(self, held: list[SpanRecord], record: SpanRecord) -> None:
        """Add to what a run holds; send at once where too much is held."""
        with self._lock:
            is_room = self._held < MAX_HELD
            if is_room:
                self._held += 1
                held.append(record)
        if not is_room:
            self._send(record)

    def part(self, run: "RunOutbox", *, is_taken: bool) -> None:
        """Let go of what a run holds: send it, or forget it."""
        if not run.held:
            return  # nor does it wait: whoever takes what is held away ends that, too
        with self._lock:
            records = self._parted(run)
        if is_taken:
            for record in records:
                self._send(record)

    def wait(self, run: "RunOutbox") -> None:
        """Send what the run holds some ticks from now."""
        with self._lock:
            self._waiting[run] = TICKS
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._tick, name="orkestra-outbox", daemon=True
                )
                self._thread.start()

    def leave(self, run: "RunOutbox") -> None:
        """The run was evicted, and what it holds is for the ticks, or for it when it comes back."""
        with self._lock:
            self._evicted[run.run_id] = run
        self.wait(run)

    def left_by(self, run_id: str) -> "RunOutbox | None":
        """What the run held when it was evicted before."""
        return self._evicted.get(run_id)

    def interrupt(self, run_id: str) -> None:
        """Local activities of the run were interrupted, to be done again in the same task."""
        with self._lock:
            self._interruptions[run_id] = self._interruptions.pop(run_id, 0) + 1
            if len(self._interruptions) > _MAX_INTERRUPTED:
                del self._interruptions[next(iter(self._interruptions))]

    def wait_no_more(self, run: "RunOutbox") -> None:
        """The run goes on: it is not for the ticks to say that its task was taken."""
        if run.held:
            with self._lock:
                self._waiting.pop(run, None)

    def settle(self, task_queue: str) -> None:
        """Send what the runs of a worker hold which has ended: its tasks have been answered."""
        with self._lock:
            ended = [run for run in self._waiting if run.task_queue == task_queue]
            records = [record for run in ended for record in self._parted(run)]
        for record in records:
            self._send(record)

    def _parted(self, run: "RunOutbox") -> list[SpanRecord]:
        self._waiting.pop(run, None)
        if self._evicted.get(run.run_id) is run:
            del self._evicted[run.run_id]
        records = list(run.held)
        run.held.clear()
        self._held -= len(records)
        return records

    def _tick(self) -> None:
        while True:
            time.sleep(TICK.total_seconds())
            with self._lock:
                for run in self._waiting:
                    self._waiting[run] -= 1
                due = [run for run, left in self._waiting.items() if left <= 0]
                records = [record for run in due for record in self._parted(run)]
                is_over = not self._waiting
                if is_over:
                    self._thread = None
            for record in records:
                self._send(record)
            if is_over:
                return


class RunOutbox:
    """The outbox of one run on one worker, around the run's activations; see `RunHook`."""

    def __init__(
        self,
        outbox: Outbox,
        commands: RunCommands,
        run_id: str,
        task_queue: str,
        interruptions: int,
    ) -> None:
        """Hold for the outbox.

        Args:
            outbox: Where to wait.
            commands: What the run's commands tell.
            run_id: The run.
            task_queue: Its worker's queue.
            interruptions: How often its local activities were interrupted before.
        """
        self.run_id = run_id
        self.task_queue = task_queue
        self.interruptions = interruptions
        self.held: list[SpanRecord] = []
        self._outbox = outbox
        self._commands = commands
        self.history_length = 0
        self._is_broken = False
        self._is_asked = False

    def know(self, spans: RunSpans) -> None:
        """Keep what the run's spans look like, for those that are made around its code."""
        self._commands.spans = spans

    def delivered_ns(self, event_id: int) -> int | None:
        """The workflow's clock when the event's signal was delivered, which is asked for once."""
        return self._commands.delivered.pop(event_id, None)

    def hold(self, record: SpanRecord) -> None:
        """Take a record until the task that made it was taken."""
        self._commands.is_told |= record.span.kind is SpanKind.WORKFLOW
        self._outbox.hold(self.held, record)
        if self._is_broken:
            self._outbox.part(self, is_taken=True)

    def before(self, activation: WorkflowActivation) -> WorkflowActivationCompletion | None:
        """See `RunHook`; judges by the activation what became of the task before."""
        _current.set(self)
        try:
            self._before(activation)
        except Exception as error:  # noqa: BLE001 - no span is worth a failed task
            self._give_up(error)
        return None

    def after(self, completion: WorkflowActivationCompletion) -> None:
        """See `RunHook`."""
        try:
            self._after(completion)
        except Exception as error:  # noqa: BLE001 - no span is worth a failed task
            self._give_up(error)

    def _before(self, activation: WorkflowActivation) -> None:
        self._is_asked = _only_asks(activation)
        if self._is_asked:
            return
        self._outbox.wait_no_more(self)
        for job in activation.jobs:
            if job.HasField("remove_from_cache"):
                self._evicted(job.remove_from_cache.reason)
                return
        self._judge_predecessor(activation)
        if activation.history_length > self.history_length:
            self.history_length = activation.history_length
            if self._commands.is_recorded or not self._commands.local:
                self._outbox.part(self, is_taken=True)
            self._commands.is_recorded = False
        for record in self._commands.resolved(activation):
            self.hold(record)

    def _after(self, completion: WorkflowActivationCompletion) -> None:
        if self._is_asked:
            return
        if not completion.HasField("successful"):
            self._outbox.part(self, is_taken=False)
            return
        for record in self._commands.issued(completion, self.held):
            self.hold(record)
        # A task with local activities goes on until they are done.
        if self.held and (self._commands.is_closing or not self._commands.local):
            self._outbox.wait(self)

    def _evicted(self, reason: int) -> None:
        is_undone = self._commands.local and not self._commands.is_closing
        if is_undone:
            self._outbox.interrupt(self.run_id)
        if self.held and reason in OPEN and (self._commands.is_recorded or not is_undone):
            self._outbox.leave(self)
        else:
            self._outbox.part(self, is_taken=reason in TAKEN)

    def _judge_predecessor(self, activation: WorkflowActivation) -> None:
        """See whether the task is replayed that the run was evicted after."""
        before = self._outbox.left_by(self.run_id)
        if before is None or before is self:
            return
        if not activation.is_replaying:
            self._outbox.part(before, is_taken=False)
        elif activation.history_length == before.history_length:
            self._outbox.part(before, is_taken=True)

    def _give_up(self, error: Exception) -> None:
        """What the SDK tells is not as expected: go on without holding."""
        if not self._is_broken:
            _logger.error("Spans of a workflow run are sent at once: %r", error)
        self._is_broken = True
        self._outbox.part(self, is_taken=True)


def _only_asks(activation: WorkflowActivation) -> bool:
    jobs = activation.jobs
    if not jobs or not jobs[0].HasField("query_workflow"):
        return False
    return all(job.HasField("query_workflow") for job in jobs)
