"""Spans are held until the server has committed their workflow task, or dropped."""

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.bridge.proto.workflow_activation import RemoveFromCache, WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from orkestra.temporal.tracing import outbox as module
from orkestra.temporal.tracing.outbox import INCONCLUSIVE_EVICTIONS, Outbox, RunOutbox
from orkestra.tracing import CaptureLimits, FinishedSpan, RunFacts, RunSpans
from tests.support.traced_worker import record_of
from tests.support.waiting import PATIENCE

REFUSED = [
    RemoveFromCache.FATAL,
    RemoveFromCache.LANG_FAIL,
    RemoveFromCache.NONDETERMINISM,
    RemoveFromCache.TASK_NOT_FOUND,
    RemoveFromCache.UNHANDLED_COMMAND,
    RemoveFromCache.UNSPECIFIED,
]
RUN = RunFacts(
    namespace="default",
    workflow_id="w",
    run_id="run",
    first_run_id="run",
    workflow_type="Order",
    task_queue="queue",
    start_ns=1,
)


class Sent:
    """Takes spans, and lets a test wait for them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.outcomes: list[Any] = []
        self._came = threading.Condition()

    def __call__(self, record: FinishedSpan) -> None:
        with self._came:
            self.names.append(record.span.name)
            self.outcomes.append(record.outcome)
            self._came.notify_all()

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.names) >= count, PATIENCE)


class Ticking:
    """The time of the outbox's thread: it stands still until a test lets it tick."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self.asleep = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        assert seconds == module.TICK.total_seconds()
        self.asleep.release()
        self._steps.acquire()

    def tick(self, times: int) -> None:
        for _ in range(times):
            assert self.asleep.acquire(timeout=PATIENCE)
            self._steps.release()

    def end(self) -> None:
        self._steps.release(100)


@pytest.fixture(autouse=True)
def in_no_run() -> Iterator[None]:
    """The runner gives each activation a context of its own."""
    token = module._current.set(None)
    yield
    module._current.reset(token)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticking]:
    made = Ticking()
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=made.sleep))
    yield made
    made.end()
    # One that went on would take the ticks of the next test.
    for thread in threading.enumerate():
        if thread.name == "orkestra-outbox":
            thread.join(30)


@pytest.fixture
def outbox(sent: Sent, ticking: Ticking) -> Outbox:
    return Outbox(sent, limits=CaptureLimits())


class Details:
    """What the outbox reads of the SDK's details of a run."""

    def __init__(self, run_id: str = "run", task_queue: str = "queue") -> None:
        self.info = type("Info", (), {"run_id": run_id, "task_queue": task_queue})


def run_of(outbox: Outbox, **details: Any) -> RunOutbox:
    return outbox.hook(Details(**details))  # type: ignore[arg-type]


def done(**fields: Any) -> WorkflowActivationCompletion:
    completion = WorkflowActivationCompletion(**fields)
    if not fields:
        completion.successful.SetInParent()
    return completion


def task(run: RunOutbox, length: int, *names: str, after: bool = True, **fields: Any) -> None:
    """One activation, in which the run makes spans of these names."""
    run.before(WorkflowActivation(history_length=length, **fields))
    for number, name in enumerate(names):
        run.add(record_of(name=name, number=number + 1))
    if after:
        run.after(done())


def evict(run: RunOutbox, reason: int) -> None:
    activation = WorkflowActivation()
    activation.jobs.add().remove_from_cache.reason = reason  # type: ignore[assignment]
    run.before(activation)


def test_spans_are_held_until_a_later_task_shows_that_theirs_was_committed(outbox, sent):
    run = run_of(outbox)
    task(run, 3, "a", "b")
    assert sent.names == []
    task(run, 7, "c")
    assert sent.names == ["a", "b"]


def test_neither_an_activation_of_the_same_task_nor_a_query_shows_a_commit(outbox, sent):
    run = run_of(outbox)
    task(run, 3, "a")
    query = WorkflowActivation(history_length=3, is_replaying=True)
    query.jobs.add().query_workflow.query_id = "q"
    run.before(query)
    run.after(done())
    task(run, 3, "b")
    assert sent.names == []


@pytest.mark.parametrize("reason", REFUSED, ids=RemoveFromCache.EvictionReason.Name)
def test_spans_of_a_rejected_task_are_dropped(outbox, sent, reason):
    run = run_of(outbox)
    task(run, 3, "a")
    evict(run, reason)
    task(run_of(outbox), 6, "again")
    task(run_of(outbox), 9)
    assert sent.names == []


def test_spans_of_a_failed_task_are_dropped(outbox, sent):
    run = run_of(outbox)
    task(run, 3, "a", after=False)
    failed = WorkflowActivationCompletion()
    failed.failed.failure.message = "a bug"
    run.after(failed)
    task(run, 9)
    assert sent.names == []


def test_the_end_of_the_run_shows_a_commit(outbox, sent):
    run = run_of(outbox)
    task(run, 3, "a")
    evict(run, RemoveFromCache.WORKFLOW_EXECUTION_ENDING)
    assert sent.names == ["a"]


@pytest.mark.parametrize("reason", INCONCLUSIVE_EVICTIONS, ids=RemoveFromCache.EvictionReason.Name)
def test_after_an_inconclusive_eviction_the_replay_shows_the_commit(outbox, sent, reason):
    taken, refused = run_of(outbox), run_of(outbox, run_id="refused")
    for run in (taken, refused):
        task(run, 9, "a" if run is taken else "b")
        evict(run, reason)
    assert sent.names == []

    back = run_of(outbox)
    task(back, 3, is_replaying=True)
    assert sent.names == []
    task(back, 9, is_replaying=True)
    assert sent.names == ["a"]

    back = run_of(outbox, run_id="refused")
    task(back, 3, is_replaying=True)
    task(back, 13, "b")
    task(back, 17)
    assert sent.names == ["a", "b"]


def test_queries_do_not_restart_the_timer(outbox, sent, ticking):
    run = run_of(outbox)
    task(run, 3, "a")
    ticking.tick(module.COMMIT_TICKS - 1)
    query = WorkflowActivation(history_length=3, is_replaying=True)
    query.jobs.add().query_workflow.query_id = "q"
    run.before(query)
    run.after(done())
    ticking.tick(1)
    sent.wait_for(1)
    assert sent.names == ["a"]


def test_a_query_after_an_eviction_shows_no_commit(outbox, sent):
    run = run_of(outbox)
    task(run, 9, "a")
    evict(run, RemoveFromCache.CACHE_FULL)
    query = WorkflowActivation(history_length=9, is_replaying=True)
    query.jobs.add().query_workflow.query_id = "q"
    run_of(outbox).before(query)
    assert sent.names == []


def test_the_timer_shows_a_commit_and_a_long_sleep_is_one_tick(outbox, sent, ticking):
    task(run_of(outbox), 3, "a")
    ticking.tick(module.COMMIT_TICKS - 1)
    assert ticking.asleep.acquire(timeout=PATIENCE)
    assert sent.names == []
    ticking._steps.release()
    sent.wait_for(1)
    assert sent.names == ["a"]


def test_the_timer_is_not_armed_while_local_activities_run(outbox, sent, ticking):
    run = run_of(outbox)
    task(run, 3, "a", after=False)
    scheduling = done()
    scheduling.successful.commands.add().schedule_local_activity.seq = 1
    run.after(scheduling)
    assert not ticking.asleep.acquire(timeout=0.05), "nobody waits for ticks"

    resolving = WorkflowActivation(history_length=3)
    resolving.jobs.add().resolve_activity.seq = 1
    run.before(resolving)
    run.after(done())
    ticking.tick(module.COMMIT_TICKS)
    sent.wait_for(1)
    assert sent.names == ["a"]


def runs_a_local_activity(run: RunOutbox, *others: str) -> None:
    """A task that makes a span, and goes on because a local activity runs; with other commands."""
    task(run, 3, "a", after=False)
    scheduling = done()
    scheduling.successful.commands.add().schedule_local_activity.seq = 1
    for other in others:
        getattr(scheduling.successful.commands.add(), other).SetInParent()
    run.after(scheduling)


def goes_on_after_a_heartbeat(run: RunOutbox) -> None:
    resolving = WorkflowActivation(history_length=6)
    resolving.jobs.add().resolve_activity.seq = 1
    run.before(resolving)


def test_a_heartbeat_without_an_event_shows_no_commit(outbox, sent):
    """The task is replayed as one with the next, and not under replay: it makes the span anew."""
    run = run_of(outbox)
    runs_a_local_activity(run)
    goes_on_after_a_heartbeat(run)
    assert sent.names == []
    failed = WorkflowActivationCompletion()
    failed.failed.SetInParent()
    run.after(failed)
    evict(run, RemoveFromCache.LANG_FAIL)
    again = run_of(outbox)
    task(again, 9, "a")
    task(again, 12)
    assert sent.names == ["a"]


@pytest.mark.parametrize("recorded", ["start_timer", "update_response", "set_patch_marker"])
def test_a_heartbeat_with_an_event_shows_a_commit(outbox, sent, recorded):
    run = run_of(outbox)
    runs_a_local_activity(run, recorded)
    goes_on_after_a_heartbeat(run)
    assert sent.names == ["a"]


@pytest.mark.parametrize("reason", sorted(INCONCLUSIVE_EVICTIONS))
def test_spans_of_a_task_interrupted_in_a_local_activity_are_dropped(outbox, sent, reason):
    run = run_of(outbox)
    runs_a_local_activity(run)
    evict(run, reason)
    assert (outbox.parked("run"), sent.names) == (None, [])


def test_a_run_on_two_workers_of_one_process_has_two_outboxes(outbox, sent):
    frozen, other = run_of(outbox), run_of(outbox)
    task(frozen, 9, "a")
    task(other, 3, is_replaying=True)
    task(other, 13, "a")
    evict(frozen, RemoveFromCache.TASK_NOT_FOUND)
    evict(other, RemoveFromCache.WORKFLOW_EXECUTION_ENDING)
    assert sent.names == ["a"]


def test_spans_beyond_the_limit_are_sent_at_once(outbox, sent, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 2)
    run = run_of(outbox)
    task(run, 3, "a", "b", "c")
    assert sent.names == ["c"]
    task(run, 7, "d")
    assert sent.names == ["c", "a", "b"]


def test_the_end_of_a_worker_sends_the_spans_of_its_own_runs(outbox, sent):
    here, elsewhere = run_of(outbox), run_of(outbox, run_id="x", task_queue="elsewhere")
    task(here, 3, "a")
    task(elsewhere, 3, "b")
    outbox.flush_queue("queue")
    assert sent.names == ["a"]


def test_without_the_hook_spans_are_sent_at_once_with_one_warning(outbox, sent, caplog):
    with caplog.at_level(logging.WARNING):
        outbox.add(record_of(name="a"))
        outbox.add(record_of(name="b"))
    assert sent.names == ["a", "b"]
    [warning] = caplog.messages
    assert "OrkestraPlugin" in warning


def test_unexpected_messages_of_the_core_end_the_holding_and_fail_no_task(outbox, sent, caplog):
    run = run_of(outbox)
    odd: Any = object()
    task(run, 3, "a")
    assert run.before(odd) is None
    run.after(odd)
    run.add(record_of(name="b"))
    assert sent.names == ["a", "b"]
    assert len(caplog.messages) == 1


def failing(text: str) -> WorkflowActivationCompletion:
    completion = done()
    completion.successful.commands.add().fail_workflow_execution.failure.message = text
    return completion


def test_a_failure_after_the_code_has_returned_is_the_outcome_of_the_run(outbox, sent):
    run = run_of(outbox)
    run.before(WorkflowActivation(history_length=3))
    run.add(record_of(name="workflow:Order"))
    run.after(failing("a command was refused"))
    evict(run, RemoveFromCache.WORKFLOW_EXECUTION_ENDING)
    assert sent.names == ["workflow:Order"]
    assert sent.outcomes[0].metadata["status"] == "failed"
    assert sent.outcomes[0].message.value == "a command was refused"


@pytest.mark.parametrize("is_replaying", [True, False])
def test_a_run_that_fails_before_its_code_runs_has_a_span(outbox, sent, is_replaying):
    run = run_of(outbox)
    run.before(WorkflowActivation(history_length=3, is_replaying=is_replaying))
    run.set_spans(RunSpans(RUN))
    run.after(failing("no such argument"))
    evict(run, RemoveFromCache.WORKFLOW_EXECUTION_ENDING)
    assert sent.names == ([] if is_replaying else ["workflow:Order"])
