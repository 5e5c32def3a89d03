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
"""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Final

from temporalio.bridge.proto.workflow_activation import RemoveFromCache, WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstanceDetails

from orkestra.temporal.interceptors.tracing.commands import RunCommands
from orkestra.tracing import CaptureLimits, RunSpans, SpanKind, SpanRecord

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
        """The hook of one run, for `orkestra.temporal.runner.hooked()`."""
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
