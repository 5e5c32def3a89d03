"""Workflows do not notice failures of Langfuse or of the mask."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError

from orkestra import OrkestraPlugin
from orkestra.langfuse import Loss
from orkestra.testing import Behaviour, LangfuseReceiver
from orkestra.tracing import trace_attributes
from tests.support.names import Fresh
from tests.support.traced_worker import Traced
from tests.support.waiting import PATIENCE, PATIENTLY, until
from tests.support.worker_process import serving
from tests.workflows.observed import Observe
from tests.workflows.slow import Slow
from tests.workflows.traced import Answer, Fail, Flaky, Ticket

ROOT = Path(__file__).parents[2]
DEADLINE = timedelta(seconds=1)
BRIEFLY = timedelta(milliseconds=200)
SECRET = "sk-canary-1234567890"


@pytest.fixture
def receiver(fresh: Fresh) -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as made:
        yield made


@pytest.fixture
async def traced(
    raw_client: Client, fresh: Fresh, receiver: LangfuseReceiver
) -> AsyncIterator[Traced]:
    made = Traced(raw_client, fresh, receiver, flush_timeout=BRIEFLY)
    yield made
    await made.sink.close(DEADLINE)


@pytest.mark.parametrize("behaviour", [b for b in Behaviour if b is not Behaviour.ACCEPT])
async def test_workflows_do_not_notice_an_outage_and_its_spans_come_later(traced, behaviour):
    with traced.receiver.behaving(behaviour):
        async with traced.worker():
            assert await traced.result(Flaky.run, 1) == 1
            assert not await asyncio.wait_for(traced.plugin.flush(DEADLINE), PATIENCE)
        assert traced.receiver.spans == []
    spans = await asyncio.to_thread(
        traced.receiver.wait_for, lambda spans: len(spans) == 2, PATIENCE
    )
    assert {span.name for span in spans} == {"workflow:Flaky", "activity:look_up"}
    assert not traced.sink.lost


async def test_closing_during_an_outage_ends_in_time_and_counts_the_lost_spans(traced, caplog):
    with traced.receiver.behaving(Behaviour.HANG):
        async with traced.worker():
            assert await traced.result(Flaky.run, 2) == 2
        assert not await asyncio.wait_for(traced.sink.close(DEADLINE), PATIENCE)
        await until(lambda: traced.sink.lost)
    assert traced.sink.lost == {Loss.UNSENT: 3}
    assert len([r for r in caplog.records if "Spans are lost" in r.message]) == 1


async def test_a_wrong_key_is_counted_and_logged_once(raw_client, fresh, receiver, caplog):
    traced = Traced(raw_client, fresh, receiver, secret_key="sk-wrong")
    async with traced.worker():
        for number in range(3):
            assert await traced.result(Flaky.run, 1, id=f"{number}-{fresh.suffix}") == 1
            await traced.plugin.flush(PATIENTLY)
    assert await traced.sink.close(PATIENTLY)

    assert traced.sink.lost == {Loss.REJECTED: 6}
    logged = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(logged) == 1
    assert "401" in logged[0].getMessage()
    assert "sk-wrong" not in caplog.text


async def test_spans_that_do_not_fit_the_queue_are_counted(raw_client, fresh, receiver):
    traced = Traced(raw_client, fresh, receiver, queue_size=4, flush_timeout=BRIEFLY)
    with receiver.behaving(Behaviour.UNAVAILABLE):
        async with traced.worker():
            for number in range(4):
                assert await traced.result(Flaky.run, 1, id=f"{number}-{fresh.suffix}") == 1
                await traced.plugin.flush()
    await traced.plugin.flush(PATIENTLY)
    assert traced.sink.lost == {Loss.QUEUE_FULL: 4}
    assert len(receiver.spans) == 4
    await traced.close()


def redact(*, data: object) -> object:
    """A mask that only knows texts, as many do."""
    return data.replace(SECRET, "***") if isinstance(data, str) else data


def by_key(*, data: object) -> object:
    """A mask that goes by keys."""
    if isinstance(data, dict):
        return {key: "***" if key == "text" else by_key(data=item) for key, item in data.items()}
    return [by_key(data=item) for item in data] if isinstance(data, list) else data


async def test_no_request_contains_a_secret(raw_client, fresh, receiver):
    traced = Traced(raw_client, fresh, receiver, mask=redact)
    with trace_attributes(
        user_id=SECRET, session_id=SECRET, tags=[f"tag-{SECRET}"], metadata={"note": SECRET}
    ):
        async with traced.worker():
            await traced.result(Fail.run, SECRET)
            observing = traced.fresh.workflow_id("observing")
            await traced.result(Observe.run, ["observing"], SECRET, id=observing)
            failing = traced.fresh.workflow_id("failing")
            with pytest.raises(WorkflowFailureError):
                await traced.result(Fail.run, "activity", SECRET, id=failing)
            inside = traced.fresh.workflow_id("inside")
            handle = await traced.start(Observe.run, ["failing_inside"], SECRET, id=inside)
            while not any(span.name == "try ***" for span in receiver.spans):
                await asyncio.sleep(0.05)
                await traced.plugin.flush(PATIENTLY)
            await handle.terminate()
    spans = await traced.spans()
    await traced.close()

    assert len(spans) > 8
    for body in receiver.bodies:
        assert SECRET.encode() not in body
        assert SECRET[3:].encode() not in body
    [root] = [span for span in spans if span.output == "***"]
    assert root.input == ["***"]
    assert "tag-***" in root.tags
    [refused] = [span for span in spans if span.name == "activity:refuse"]
    assert refused.status_message == "ValueError: ***"


async def test_a_mask_may_look_for_keys(raw_client, fresh, receiver):
    traced = Traced(raw_client, fresh, receiver, mask=by_key)
    async with traced.worker():
        handle = await traced.start(
            Answer.run, Ticket(1, SECRET), start_signal="poke", start_signal_args=["now"]
        )
        await handle.execute_update(Answer.reply, "yes")
        await handle.result()
    root = await traced.trace()
    await traced.close()
    assert root.span.input == [{"number": 1, "text": "***"}]
    assert root.span.output == "draft of 1: yes"
    assert SECRET.encode() not in b"".join(receiver.bodies)


async def test_a_mask_that_raises_hides_everything_and_fails_nothing(raw_client, fresh, receiver):
    def broken(*, data: object) -> object:
        raise ZeroDivisionError(data)

    traced = Traced(raw_client, fresh, receiver, mask=broken)
    async with traced.worker():
        assert await traced.result(Fail.run, SECRET) == SECRET
        assert await traced.result(
            Observe.run, ["observing"], SECRET, id=traced.fresh.workflow_id("observe")
        ) == ["42"]
    spans = await traced.spans()
    await traced.close()

    assert {span.name for span in spans} == {"<hidden: the mask failed>"}
    assert all(SECRET.encode() not in body for body in receiver.bodies)


async def test_values_that_cannot_be_encoded_fail_nothing(traced):
    async with traced.worker():
        assert await traced.result(Fail.run, "lone surrogate \ud800") == "lone surrogate \ud800"
    spans = await traced.spans()
    assert [span.output for span in spans] == ["lone surrogate ?"]


ENDS_WITHOUT_FLUSH = """
import sys
from orkestra.config import LangfuseSettings
from orkestra.langfuse import LangfuseSink
from tests.support.traced_worker import record_of

settings = LangfuseSettings(
    public_key="pk-lf-test", secret_key="sk-lf-test", base_url=sys.argv[1],
    flush_timeout=sys.argv[2],
)
sink = LangfuseSink(settings)
"""

FLUSH_TIMEOUTS = {Behaviour.ACCEPT: "2m", Behaviour.HANG: "1s"}
ENDS = {
    "at once": "sink.emit(record_of())",
    "while the SDK is imported": "sink.start(); sink.emit(record_of())",
    "by an error": "sink.emit(record_of()); raise SystemExit(3)",
}


@pytest.mark.parametrize("behaviour", [Behaviour.ACCEPT, Behaviour.HANG])
@pytest.mark.parametrize("end", ENDS)
async def test_the_exit_of_the_interpreter_sends_spans_within_the_flush_timeout(behaviour, end):
    with LangfuseReceiver() as receiver, receiver.behaving(behaviour):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ENDS_WITHOUT_FLUSH + ENDS[end]),
            *(receiver.url, FLUSH_TIMEOUTS[behaviour]),
            cwd=ROOT,
        )
        code = await asyncio.wait_for(process.wait(), PATIENCE)
        assert code == (3 if "3" in ENDS[end] else 0)
        names = [span.name for span in receiver.spans]
    assert names == (["workflow:X"] if behaviour is Behaviour.ACCEPT else [])


@pytest.mark.parametrize("behaviour", [Behaviour.ACCEPT, Behaviour.HANG])
async def test_a_worker_that_stops_sends_its_spans_within_its_deadline(
    raw_client, dev_server, fresh, behaviour
):
    with LangfuseReceiver(public_key=f"pk-{fresh.suffix}") as receiver:
        settings = receiver.settings()
        keys = {
            "public_key": settings.public_key,
            "secret_key": receiver.secret_key,
            "base_url": receiver.url,
            "flush_timeout": FLUSH_TIMEOUTS[behaviour],
        }
        acme = Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])
        with receiver.behaving(behaviour):
            async with serving(
                dev_server.address,
                fresh.task_queue(),
                environment={"SERVE_LANGFUSE": json.dumps(keys)},
            ) as worker:
                done = acme.execute_workflow(
                    Slow.run, args=["obeys", 0.1], id="one", task_queue=fresh.task_queue()
                )
                assert await done == "finished"
                worker.process.terminate()
                assert await worker.end() == 0
            names = {span.name for span in receiver.spans}
    is_up = behaviour is Behaviour.ACCEPT
    assert names == ({"workflow:Slow", "activity:obeys"} if is_up else set())


async def test_workflows_take_as_long_as_without_tracing_while_langfuse_hangs(
    raw_client, fresh, receiver, record_property
):
    """The ratio is for people: the machine that runs the tests may be doing anything."""
    seconds: dict[bool, float] = {}
    with receiver.behaving(Behaviour.HANG):
        for enabled in (True, False):
            traced = Traced(raw_client, fresh, receiver, enabled=enabled, flush_timeout=BRIEFLY)
            async with traced.worker():
                began = time.perf_counter()
                ids = [f"{enabled}-{number}" for number in range(20)]
                await asyncio.gather(*(traced.result(Flaky.run, 2, id=each) for each in ids))
                seconds[enabled] = time.perf_counter() - began
            await traced.plugin.close()
    record_property("hanging_to_untraced", seconds[True] / seconds[False])
    assert seconds[True] < 10 * seconds[False] + 5
