"""Spans of workflow code, held until the server has committed the workflow task that made them.

The server may reject what a worker answers to a workflow task: a signal came in between, or the
task timed out while the worker stood still. The task is then done again, perhaps on another worker,
and not as a replay. Its spans would be sent twice, and Langfuse keeps both copies (T54). So a
run's spans wait here, for some seconds at most, until one of these events settles their task:

| event | the task was |
| --- | --- |
| a later workflow task of the run arrives | committed, see below for heartbeats |
| eviction because the run is over (`COMMITTED_EVICTIONS`) | committed |
| the worker itself fails the task | not committed |
| eviction for a reason that blames the task | not committed |
| eviction for another reason, such as a full cache (`INCONCLUSIVE_EVICTIONS`) | unknown: parked |
| a parked run comes back and replays the task | committed |
| a parked run comes back and skips the task | not committed |
| nothing for `COMMIT_TICKS` ticks after the last activation | committed |

The core reports no commit, which is why the last row exists. Its time is counted in ticks of a
thread and not by a clock: a process that was suspended for a minute wakes up with one tick gone,
and hears of an eviction before the other ticks are over.

Commit means that the spans are sent. Otherwise they are dropped, because the task makes them again.
A killed process loses what it holds, until the trace is backfilled from the history.

The module reads the core's activations and completions around the workflow's code, as a hook of
`orkestra.temporal.run_hooks`. That also shows timers, Nexus operations, children that fail to start
and signals that fail to arrive, for which the SDK has no interceptor: `CommandTracker` makes their
spans.
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
from orkestra.temporal.tracing.headers import read_nexus_header
from orkestra.temporal.tracing.outcomes import proto_outcome
from orkestra.tracing import (
    Captured,
    CaptureLimits,
    FinishedSpan,
    Outcome,
    RunSpans,
    Span,
    SpanKind,
    capture,
)

_logger: Final = logging.getLogger(__name__)

COMMITTED_EVICTIONS: Final = frozenset({RemoveFromCache.WORKFLOW_EXECUTION_ENDING})
INCONCLUSIVE_EVICTIONS: Final = frozenset(
    {
        RemoveFromCache.CACHE_FULL,
        RemoveFromCache.CACHE_MISS,
        RemoveFromCache.LANG_REQUESTED,
        RemoveFromCache.PAGINATION_OR_HISTORY_FETCH,
    }
)
"""Evictions after which the last task may or may not have been committed. All reasons in neither
set mean that it was not."""

TICK: Final = timedelta(milliseconds=500)
COMMIT_TICKS: Final = 6
MAX_HELD: Final = 2_000
"""Spans held at once; further spans are sent at once, at the risk of a duplicate."""

_MAX_INTERRUPTED_RUNS: Final = 1_000

Send = Callable[[FinishedSpan], None]

_current: ContextVar["RunOutbox | None"] = ContextVar("orkestra_run_outbox", default=None)


def current_run() -> "RunOutbox | None":
    """Return the outbox of the run whose code is running; None where its runner has no hook."""
    return _current.get()


class Outbox:
    """Held spans of all runs of a process. Safe to use from any thread.

    Args:
        send: Receives committed spans; must neither block nor raise.
        limits: How much of values is captured.
        timer_threshold: Timers of at least this duration have spans; None means no timer has.
    """

    def __init__(
        self, send: Send, *, limits: CaptureLimits, timer_threshold: timedelta | None = None
    ) -> None:
        self._send = send
        self._limits = limits
        self._timer_threshold = timer_threshold
        self._lock = threading.Lock()
        self._ticks_left: dict[RunOutbox, int] = {}
        self._parked: dict[str, RunOutbox] = {}
        self._interruptions: dict[str, int] = {}
        self._held = 0
        self._thread: threading.Thread | None = None
        self._has_warned = False

    @property
    def held(self) -> int:
        """Number of spans that are held."""
        return self._held

    def hook(self, details: WorkflowInstanceDetails) -> "RunOutbox":
        """Make the hook of one run, for `orkestra.temporal.run_hooks`."""
        tracker = CommandTracker(self._limits, self._timer_threshold)
        info = details.info
        interruptions = self._interruptions.get(info.run_id, 0)
        return RunOutbox(self, tracker, info.run_id, info.task_queue, interruptions)

    def add(self, span: FinishedSpan) -> None:
        """Hold a span of the run whose code is running."""
        run = _current.get()
        if run is not None:
            run.add(span)
            return
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "The workflow runner was not wrapped by OrkestraPlugin: spans of workflow code are"
                " sent at once, and twice where the server rejects a workflow task"
            )
        self._send(span)

    def hold(self, run: "RunOutbox", span: FinishedSpan) -> None:
        """Hold a span of the run, or send it at once where too many are held."""
        with self._lock:
            is_room = self._held < MAX_HELD
            if is_room:
                self._held += 1
                run.held.append(span)
        # Outside of the lock, because the sink takes locks of its own.
        if not is_room:
            self._send(span)

    def resolve(self, run: "RunOutbox", *, committed: bool) -> None:
        """Send the run's held spans if their task was committed, else drop them."""
        if not run.held:
            return  # then no timer is armed either: both end in _take_held()
        with self._lock:
            spans = self._take_held(run)
        if committed:
            for span in spans:
                self._send(span)

    def park(self, run: "RunOutbox") -> None:
        """Keep an evicted run's spans until the timer fires or the run comes back."""
        with self._lock:
            self._parked[run.run_id] = run
        self.arm_timer(run)

    def parked(self, run_id: str) -> "RunOutbox | None":
        """Return the outbox that the run had when it was evicted, if that still holds spans."""
        return self._parked.get(run_id)

    def note_interruption(self, run_id: str) -> None:
        """Count that the run was evicted amid local activities, which run again in that task."""
        with self._lock:
            # Taken out first, so that the oldest entry of the dictionary is the least recent.
            self._interruptions[run_id] = self._interruptions.pop(run_id, 0) + 1
            if len(self._interruptions) > _MAX_INTERRUPTED_RUNS:
                del self._interruptions[next(iter(self._interruptions))]

    def arm_timer(self, run: "RunOutbox") -> None:
        """Take the run's task for committed after `COMMIT_TICKS`, unless something says more."""
        with self._lock:
            # Starts over with each activation: the task may have several.
            self._ticks_left[run] = COMMIT_TICKS
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._tick, name="orkestra-outbox", daemon=True
                )
                self._thread.start()

    def disarm_timer(self, run: "RunOutbox") -> None:
        """Stop the timer, because an activation of the run has arrived that says more."""
        if run.held:
            with self._lock:
                self._ticks_left.pop(run, None)

    def flush_queue(self, task_queue: str) -> None:
        """Send the spans of a stopped worker, all of whose workflow tasks have been answered."""
        with self._lock:
            stopped = [run for run in self._ticks_left if run.task_queue == task_queue]
            spans = [span for run in stopped for span in self._take_held(run)]
        for span in spans:
            self._send(span)

    def _take_held(self, run: "RunOutbox") -> list[FinishedSpan]:
        """Empty a run's outbox, timer and parking space; the caller has the lock."""
        self._ticks_left.pop(run, None)
        # A run can be on two workers of one process: only its own entry is removed.
        if self._parked.get(run.run_id) is run:
            del self._parked[run.run_id]
        spans = list(run.held)
        run.held.clear()
        self._held -= len(spans)
        return spans

    def _tick(self) -> None:
        """Run the thread, which lives only as long as a timer is armed."""
        while True:
            time.sleep(TICK.total_seconds())
            with self._lock:
                for run in self._ticks_left:
                    self._ticks_left[run] -= 1
                # Committed by the last row of the table: nothing was heard of it for long enough.
                due = [run for run, left in self._ticks_left.items() if left <= 0]
                spans = [span for run in due for span in self._take_held(run)]
                is_over = not self._ticks_left
                # Under the lock, so that `arm_timer()` starts a new thread from now on.
                if is_over:
                    self._thread = None
            for span in spans:
                self._send(span)
            if is_over:
                return


class RunOutbox:
    """Held spans of one run on one worker; a `RunHook` around the run's activations.

    Attributes:
        interruptions: How often the run was evicted amid local activities before.
        held: Spans of the workflow task that is under way or waits for its commit.
        history_length: History length of the latest workflow task.
    """

    def __init__(
        self,
        outbox: Outbox,
        tracker: "CommandTracker",
        run_id: str,
        task_queue: str,
        interruptions: int,
    ) -> None:
        self.run_id = run_id
        self.task_queue = task_queue
        self.interruptions = interruptions
        self.held: list[FinishedSpan] = []
        self.history_length = 0
        self._outbox = outbox
        self._tracker = tracker
        self._is_broken = False
        self._is_query = False

    def set_spans(self, spans: RunSpans) -> None:
        """Provide the run's span factory, which needs facts that only workflow code has."""
        self._tracker.spans = spans

    def pop_delivery_time(self, event_id: int) -> int | None:
        """Return the workflow's clock, in ns, when the signal of the event was delivered."""
        return self._tracker.delivery_times.pop(event_id, None)

    def add(self, span: FinishedSpan) -> None:
        """Hold a span until its workflow task is settled."""
        self._tracker.has_workflow_span |= span.span.kind is SpanKind.WORKFLOW
        self._outbox.hold(self, span)
        if self._is_broken:
            self._outbox.resolve(self, committed=True)

    def before(self, activation: WorkflowActivation) -> WorkflowActivationCompletion | None:
        """See `RunHook`; settles the previous task by what the activation shows of it."""
        # Never reset: the run's tasks copy the context, and the next activation sets its own.
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
        # A query is no workflow task: it neither shows a commit nor puts the timer off.
        self._is_query = _has_only_queries(activation)
        if self._is_query:
            return
        self._outbox.disarm_timer(self)
        for job in activation.jobs:
            if job.HasField("remove_from_cache"):
                self._on_eviction(job.remove_from_cache.reason)
                return
        # Before this run's own spans, because the parked ones are older.
        self._settle_parked(activation)
        # One workflow task has several activations. A longer history means a new task, for which
        # the server must have committed the one before. The exception is a heartbeat, by which the
        # core gets more time for local activities: if the task wrote nothing else, a replay does
        # its code again, as one with the next task and not as a replay.
        if activation.history_length > self.history_length:
            self.history_length = activation.history_length
            if self._tracker.wrote_history or not self._tracker.local_activities:
                self._outbox.resolve(self, committed=True)
            self._tracker.wrote_history = False
        for span in self._tracker.on_activation(activation):
            self.add(span)

    def _after(self, completion: WorkflowActivationCompletion) -> None:
        if self._is_query:
            return
        # The worker fails the task, so the server has it done again.
        if not completion.HasField("successful"):
            self._outbox.resolve(self, committed=False)
            return
        for span in self._tracker.on_completion(completion, self.held):
            self.add(span)
        # The core answers a task only when its local activities are done, however long they take:
        # until then no number of ticks means anything. It waits for none when the run closes.
        if self.held and (self._tracker.is_closing or not self._tracker.local_activities):
            self._outbox.arm_timer(self)

    def _on_eviction(self, reason: int) -> None:
        # Evicted amid local activities, the task was not answered and will be done again.
        is_interrupted = self._tracker.local_activities and not self._tracker.is_closing
        if is_interrupted:
            self._outbox.note_interruption(self.run_id)
        can_be_committed = self._tracker.wrote_history or not is_interrupted
        if self.held and reason in INCONCLUSIVE_EVICTIONS and can_be_committed:
            self._outbox.park(self)
        else:
            self._outbox.resolve(self, committed=reason in COMMITTED_EVICTIONS)

    def _settle_parked(self, activation: WorkflowActivation) -> None:
        """Settle the task after which this run was evicted, now that the run is back.

        The run is replayed from its history, which contains the task only if it was committed. So
        either the replay reaches the task, or the run goes on without having replayed it.
        """
        parked = self._outbox.parked(self.run_id)
        if parked is None or parked is self:
            return
        if not activation.is_replaying:
            self._outbox.resolve(parked, committed=False)
        elif activation.history_length == parked.history_length:
            self._outbox.resolve(parked, committed=True)

    def _give_up(self, error: Exception) -> None:
        """Stop holding spans: the core's messages are not as expected."""
        if not self._is_broken:
            _logger.error(
                "Spans of a workflow run are sent at once and may be duplicated: %r", error
            )
        self._is_broken = True
        self._outbox.resolve(self, committed=True)


def _has_only_queries(activation: WorkflowActivation) -> bool:
    jobs = activation.jobs
    if not jobs or not jobs[0].HasField("query_workflow"):
        return False
    return all(job.HasField("query_workflow") for job in jobs)


# --- Commands ------------------------------------------------------------------------------------

_OPENING_COMMANDS: Final = frozenset(
    {
        "schedule_nexus_operation",
        "signal_external_workflow_execution",
        "start_child_workflow_execution",
        "start_timer",
    }
)
_COMMANDS_WITHOUT_EVENT: Final = frozenset(
    {"request_cancel_local_activity", "respond_to_query", "schedule_local_activity"}
)
_CLOSING_COMMANDS: Final = frozenset(
    {
        "cancel_workflow_execution",
        "complete_workflow_execution",
        "continue_as_new_workflow_execution",
        "fail_workflow_execution",
    }
)


@dataclass(frozen=True, slots=True)
class _OpenCommand:
    """Command without a result yet; `number` counts the run's Nexus operations up to it."""

    command: Any
    start_ns: int
    number: int


class CommandTracker:
    """Commands of one run, and the spans of those that end while the run is not replayed.

    Attributes:
        spans: The run's span factory, once its code has run.
        delivery_times: The workflow's clock when a signal was delivered, by the ID of its event.
        local_activities: Sequence numbers of local activities that are running.
        wrote_history: Whether the current task has issued a command that becomes an event.
        is_closing: Whether the run has issued a command that closes it.
        has_workflow_span: Whether the run's own span has been made.
    """

    def __init__(self, limits: CaptureLimits, timer_threshold: timedelta | None) -> None:
        self.spans: RunSpans | None = None
        self.delivery_times: dict[int, int] = {}
        self.local_activities: set[int] = set()
        self.wrote_history = False
        self.is_closing = False
        self.has_workflow_span = False
        self._limits = limits
        self._timer_threshold = timer_threshold
        self._open: dict[tuple[str, int], _OpenCommand] = {}
        self._operations = 0
        self._now_ns = 0
        self._is_replaying = True

    def on_activation(self, activation: WorkflowActivation) -> Iterator[FinishedSpan]:
        """Yield the spans that end with what the activation brings."""
        self._now_ns = activation.timestamp.ToNanoseconds()
        self._is_replaying = activation.is_replaying
        for job in activation.jobs:
            kind = job.WhichOneof("variant")
            if kind == "signal_workflow":
                self.delivery_times[job.signal_workflow.originating_event_id] = self._now_ns
            elif kind == "resolve_activity":
                # The end of a local activity is recorded, as a marker.
                self.wrote_history |= job.resolve_activity.seq in self.local_activities
                self.local_activities.discard(job.resolve_activity.seq)
            elif kind == "fire_timer":
                yield from self._timer(job.fire_timer.seq, "fired")
            elif kind is not None and kind.startswith("resolve_"):
                yield from self._resolution(kind, job)

    def on_completion(
        self, completion: WorkflowActivationCompletion, held: list[FinishedSpan]
    ) -> Iterator[FinishedSpan]:
        """Note the commands of an activation, and yield the spans that end with them.

        Args:
            completion: The commands.
            held: The run's held spans. If the run fails, its own span among them becomes a failure.
        """
        for command in completion.successful.commands:
            kind = command.WhichOneof("variant")
            # Without an event, a replay cannot know that the task was completed.
            self.wrote_history |= kind not in _COMMANDS_WITHOUT_EVENT
            if kind == "schedule_local_activity":
                self.local_activities.add(command.schedule_local_activity.seq)
            elif kind == "cancel_timer":
                yield from self._timer(command.cancel_timer.seq, "cancelled")
            elif kind in _OPENING_COMMANDS:
                content = getattr(command, kind)
                self._operations += kind == "schedule_nexus_operation"
                # The SDK numbers the commands of each kind separately.
                self._open[kind, content.seq] = _OpenCommand(
                    content, self._now_ns, self._operations
                )
            elif kind in _CLOSING_COMMANDS:
                self.is_closing = True
                if kind == "fail_workflow_execution":
                    yield from self._run_failure(command.fail_workflow_execution.failure, held)

    def _resolution(self, kind: str, job: WorkflowActivationJob) -> Iterator[FinishedSpan]:
        result = getattr(job, kind)
        if kind == "resolve_nexus_operation":
            command = self._open.pop(("schedule_nexus_operation", result.seq), None)
            outcome = self._operation_outcome(result.result)
            yield from self._finished(command, outcome, self._operation_span)
        elif kind == "resolve_nexus_operation_start":
            if result.HasField("failed"):
                command = self._open.pop(("schedule_nexus_operation", result.seq), None)
                outcome = proto_outcome(result.failed)
                yield from self._finished(command, outcome, self._operation_span)
        elif kind == "resolve_child_workflow_execution_start":
            command = self._open.pop(("start_child_workflow_execution", result.seq), None)
            if result.HasField("failed"):
                failure = Failure(message="a workflow of this ID already exists")
                yield from self._finished(command, proto_outcome(failure), self._child_span)
        elif kind == "resolve_signal_external_workflow":
            command = self._open.pop(("signal_external_workflow_execution", result.seq), None)
            # The workflow cancelled it before it was sent: no history has it.
            if result.HasField("failure") and not result.failure.HasField("canceled_failure_info"):
                yield from self._finished(command, proto_outcome(result.failure), self._signal_span)

    def _timer(self, seq: int, status: str) -> Iterator[FinishedSpan]:
        command = self._open.pop(("start_timer", seq), None)
        # A timer that was cancelled in the task that started it is in no history.
        if command is None or self._timer_threshold is None or command.start_ns == self._now_ns:
            return
        duration = timedelta(microseconds=(self._now_ns - command.start_ns) // 1000)
        if duration >= self._timer_threshold:
            yield from self._finished(command, Outcome(metadata={"status": status}), _timer_span)

    def _run_failure(self, failure: Failure, held: list[FinishedSpan]) -> Iterator[FinishedSpan]:
        """Make the run's span a failure.

        The run's code does not see every failure: its arguments may not be decodable, and the
        server or Orkestra may have refused a command after the code had returned.
        """
        outcome = proto_outcome(failure)
        for index, span in enumerate(held):
            if span.span.kind is SpanKind.WORKFLOW:
                if span.outcome.metadata.get("status") != "failed":
                    held[index] = replace(span, outcome=outcome)
                return
        if self.spans is not None and not self.has_workflow_span and not self._is_replaying:
            yield FinishedSpan(span=self.spans.workflow(), outcome=outcome, end_ns=self._now_ns)

    def _finished(
        self,
        command: _OpenCommand | None,
        outcome: Outcome,
        make_span: Callable[[RunSpans, _OpenCommand], Span],
    ) -> Iterator[FinishedSpan]:
        if command is not None and self.spans is not None and not self._is_replaying:
            span = make_span(self.spans, command)
            yield FinishedSpan(span=span, outcome=outcome, end_ns=self._now_ns)

    def _operation_outcome(self, result: NexusOperationResult) -> Outcome:
        status = result.WhichOneof("status")
        if status != "completed":
            return proto_outcome(getattr(result, status or "failed"))
        output = self._snapshot(result.completed) if self._limits.output else None
        return Outcome(output=output, metadata={"status": "completed"})

    def _operation_span(self, spans: RunSpans, opened: _OpenCommand) -> Span:
        command = opened.command
        return spans.nexus(
            number=opened.number,
            endpoint=command.endpoint,
            service=command.service,
            operation=command.operation,
            start_ns=opened.start_ns,
            carried=read_nexus_header(command.nexus_header),
            input=self._snapshot(command.input) if self._limits.input else None,
        )

    def _child_span(self, spans: RunSpans, opened: _OpenCommand) -> Span:
        command = opened.command
        return spans.child(
            command.workflow_type,
            child_id=command.workflow_id,
            start_ns=opened.start_ns,
            input=self._snapshot_args(command.input),
        )

    def _signal_span(self, spans: RunSpans, opened: _OpenCommand) -> Span:
        command = opened.command
        return spans.undelivered(
            command.signal_name,
            workflow_id=command.child_workflow_id or command.workflow_execution.workflow_id,
            start_ns=opened.start_ns,
            input=self._snapshot_args(command.args),
        )

    def _snapshot_args(self, payloads: Any) -> Captured | None:
        if not self._limits.input:
            return None
        args = [self._snapshot(payload) for payload in payloads]
        whole = capture([each.value for each in args], max_bytes=self._limits.max_bytes)
        return replace(whole, is_cut=whole.is_cut or any(each.is_cut for each in args))

    def _snapshot(self, payload: Payload) -> Captured:
        """Capture a payload that no codec has encoded; only JSON can be looked into."""
        limit = self._limits.max_bytes
        encoding = payload.metadata.get("encoding", b"").decode(errors="replace")
        if encoding == "binary/null":
            return Captured(None)
        # Far more than fits is not parsed at all: the deadlock detector fires after 2 s (T57).
        if encoding.startswith("json/") and len(payload.data) <= 4 * limit:
            with suppress(ValueError, RecursionError):
                return capture(json.loads(payload.data), max_bytes=limit)
        return capture(f"<{len(payload.data)} bytes of {encoding}>", max_bytes=limit)


def _timer_span(spans: RunSpans, opened: _OpenCommand) -> Span:
    command = opened.command
    return spans.timer(
        timer_id=str(command.seq),
        start_ns=opened.start_ns,
        seconds=command.start_to_fire_timeout.ToTimedelta().total_seconds(),
    )
