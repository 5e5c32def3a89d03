"""Judging by the core's figures whether a worker polls."""

from orkestra.temporal.run_worker.monitor import PollHealth, parse_core_metrics

QUEUE = 'queue "of" \\ mine'
FREE = "temporal_worker_task_slots_available"
LABELS = r'namespace="default",task_queue="queue \"of\" \\ mine"'


class Worker:
    """Its figures over time, looked at every two seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun = self.answered = 0
        self.pollers, self.free = 5, 100
        self._judge = PollHealth(clock=lambda: self.now)

    def look(self) -> str | None:
        self.now += 2
        text = "\n".join(
            [
                "# TYPE temporal_long_request counter",
                f'temporal_long_request{{{LABELS},operation="PollActivityTaskQueue"}} {self.begun}',
                f'temporal_long_request_latency_bucket{{{LABELS},le="100"}} 7',
                f"temporal_activity_task_received{{{LABELS}}} {self.answered}",
                f'temporal_num_pollers{{{LABELS},poller_type="activity_task"}} {self.pollers}',
                f'{FREE}{{{LABELS},worker_type="ActivityWorker"}} {self.free}',
                "garbage{",
            ]
        )
        return self._judge.problem(parse_core_metrics(text)["default", QUEUE])


def test_an_idle_worker_polls():
    worker = Worker()
    worker.begun = 5
    assert [worker.look() for _ in range(60)] == [None] * 60


def test_polls_begun_again_and_again_without_an_answer_are_trouble_within_seconds():
    worker, seen = Worker(), []
    for _ in range(5):
        worker.begun += 3
        seen.append(worker.look())
    assert seen[:3] == [None] * 3
    assert seen[-1] == "PollActivityTaskQueue keeps failing"
    worker.answered += 1
    assert worker.look() is None


def test_one_reset_of_the_connection_is_no_trouble():
    worker = Worker()
    assert worker.look() is None
    worker.begun += 5
    assert [worker.look() for _ in range(20)] == [None] * 20


def test_a_busy_worker_that_loses_a_poll_now_and_then_counts_as_polling():
    worker = Worker()
    for _ in range(50):
        worker.begun += 10
        worker.answered += 9
        assert worker.look() is None


def test_polls_that_fail_with_pauses_of_ten_seconds_stay_trouble():
    worker, seen = Worker(), []
    for number in range(40):
        worker.begun += 1 if number % 5 == 0 else 0
        seen.append(worker.look())
    assert all(seen[10:])


def test_no_poller_is_trouble_only_where_a_slot_is_free():
    worker = Worker()
    worker.pollers = worker.free = 0
    assert [worker.look() for _ in range(10)] == [None] * 10
    worker.free = 3
    assert worker.look() is None
    assert [worker.look() for _ in range(4)][-1] == (
        "ActivityWorker does not poll, although it has free slots"
    )
    worker.pollers = 1
    assert worker.look() is None
