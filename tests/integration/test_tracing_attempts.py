"""Outcomes of the spans of an activity's attempts."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from orkestra.testing import LangfuseReceiver, ReceivedSpan
from tests.support.names import Fresh
from tests.support.traced_worker import SOON, Traced, has_begun
from tests.support.waiting import PATIENTLY, until
from tests.workflows.attempts import Attempts, attempt, attempt_in_a_thread


@pytest.fixture
def receiver(fresh: Fresh) -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as made:
        yield made


@pytest.fixture
async def traced(
    raw_client: Client, fresh: Fresh, receiver: LangfuseReceiver
) -> AsyncIterator[Traced]:
    made = Traced(raw_client, fresh, receiver)
    yield made
    await made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def worker_of(traced: Traced, threads: ThreadPoolExecutor, **options: Any) -> Worker:
    return Worker(
        traced.client(),
        task_queue=traced.queue,
        workflows=[Attempts],
        activities=[attempt, attempt_in_a_thread],
        activity_executor=threads,
        max_heartbeat_throttle_interval=SOON,
        **options,
    )


async def attempts_of(traced: Traced, count: int) -> list[ReceivedSpan]:
    """The spans of attempts by their number; one that the server gave up ends when it likes."""

    def attempts(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
        return [span for span in spans if span.name.startswith("activity:")]

    async def have_come() -> bool:
        await traced.plugin.flush(PATIENTLY)
        return len(attempts(traced.receiver.spans)) >= count

    await until(have_come)
    return sorted(attempts(await traced.spans()), key=lambda span: span.metadata["attempt"])


@pytest.mark.parametrize("name", ["attempt", "attempt_in_a_thread"])
async def test_a_failed_attempt_and_its_retry_have_a_span_each(traced, threads, name):
    async with worker_of(traced, threads):
        assert await traced.result(Attempts.run, name, "fail") == 2
    first, second = await attempts_of(traced, 2)
    assert (first.level, first.metadata["status"]) == ("ERROR", "failed")
    assert (second.level, second.metadata["status"]) == ("DEFAULT", "completed")


async def test_a_cancelled_attempt_has_the_reason_of_its_cancellation(traced, threads):
    async with worker_of(traced, threads):
        handle = await traced.start(Attempts.run, "attempt", "wait")
        await until(lambda: has_begun(handle))
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    [only] = await attempts_of(traced, 1)
    assert only.metadata["status"] == "cancelled"
    assert only.metadata["cancelled_by"] == "cancel_requested"
    assert only.level == "WARNING"


async def test_an_attempt_that_ends_with_its_worker_has_that_reason(traced, threads):
    async with worker_of(traced, threads):
        handle = await traced.start(Attempts.run, "attempt", "wait")
        await until(lambda: has_begun(handle))
    [only] = await attempts_of(traced, 1)
    assert only.metadata["cancelled_by"] == "worker_shutdown"
    await handle.terminate()
