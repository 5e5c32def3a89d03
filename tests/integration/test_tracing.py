"""Traces of real workflows on the real server, as they come over Langfuse's wire."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy

from orkestra import tenant_scope
from orkestra.temporal.tracing import TRACE_HEADER
from orkestra.testing import LangfuseReceiver, TraceTree
from orkestra.tracing import trace_attributes, trace_id_of, workflow_span_id
from tests.support.names import Fresh
from tests.support.trace_headers import scheduled_headers
from tests.support.traced_worker import Traced, has_begun
from tests.support.waiting import until
from tests.workflows.traced import Answer, Fail, FailTask, Flaky, SignalOther, Ticket

TICKET = Ticket(7, "hello")


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


async def answered(traced: Traced, tenant: str, *, runs: int = 1, **options: Any) -> Any:
    """An `Answer` that was poked and replied to in each of its runs."""
    handle = await traced.start(Answer.run, TICKET, runs, tenant=tenant, **options)
    client = traced.client(tenant)
    for _ in range(runs):
        current = client.get_workflow_handle(handle.id)
        before = (await current.describe()).run_id
        await current.signal(Answer.poke, "please")
        await current.execute_update(Answer.reply, "yes")
        while runs > 1 and (now := await current.describe()).run_id == before:
            if now.status and now.status.name == "COMPLETED":
                break
            await asyncio.sleep(0.02)
    await handle.result()
    return handle


def children(tree: TraceTree) -> list[str]:
    return sorted(child.span.name for child in tree.children)


async def test_one_execution_is_one_trace_with_one_root_and_everything_below_it(traced):
    async with traced.worker():
        handle = await answered(traced, traced.acme)
    root = await traced.trace()

    assert root.span.name == "workflow:Answer"
    assert children(root) == [
        "activity:draft",
        "activity:tidy",
        "signal:poke",
        "update:reply",
        "workflow:Notify",
    ]
    [notify] = root.find("workflow:Notify")
    assert children(notify) == ["activity:tidy"]
    assert root.span.parent_id is None
    assert [span.name for _, span in root.walk() if span.is_app_root] == ["workflow:Answer"]

    description = await handle.describe()
    assert root.span.trace_id == trace_id_of("default", handle.id, description.run_id)
    assert root.span.span_id == workflow_span_id(description.run_id)


async def test_spans_carry_arguments_results_types_and_times(traced):
    async with traced.worker():
        handle = await answered(traced, traced.acme)
    root = await traced.trace()
    description = await handle.describe()

    assert root.span.type == "chain"
    assert root.span.input == [{"number": 7, "text": "hello"}, 1]
    assert root.span.output == "draft of 7: yes"
    assert root.span.level == "DEFAULT"
    assert root.span.start_ns // 1000 == int(description.start_time.timestamp() * 1e6)
    assert root.span.metadata["status"] == "completed"

    [draft] = root.find("activity:draft")
    assert draft.span.type == "tool"
    assert draft.span.input == [{"number": 7, "text": "hello"}]
    assert draft.span.output == "draft of 7"
    assert draft.span.metadata["attempt"] == 1
    assert draft.span.metadata["activity_id"] == "1"
    assert draft.span.metadata["task_queue"] == traced.queue
    assert draft.span.metadata["schedule_to_start_ms"] >= 0
    assert "@" in draft.span.metadata["worker"]
    assert timedelta() <= draft.duration <= root.duration

    [signal] = root.find("signal:poke")
    assert signal.span.input == ["please"]
    [update] = root.find("update:reply")
    assert (update.span.input, update.span.output) == (["yes"], 3)


async def test_the_trace_carries_tenant_workflow_and_session(traced):
    async with traced.worker():
        handle = await answered(traced, traced.acme)
    root = await traced.trace()

    for _, span in root.walk():
        assert span.tags == (f"tenant:{traced.acme}",)
        assert span.trace_metadata["tenant_id"] == traced.acme
        assert span.session_id == handle.id
        assert span.user_id is None
    described = {
        "workflow_type": "Answer",
        "workflow_id": handle.id,
        "run_id": handle.first_execution_run_id,
        "namespace": "default",
        "task_queue": traced.queue,
    }
    assert described.items() <= root.span.trace_metadata.items()
    assert described.items() <= root.span.metadata.items()


async def test_later_runs_of_a_chain_are_children_of_the_first(traced):
    async with traced.worker():
        await answered(traced, traced.acme, runs=3)
    root = await traced.trace()

    assert root.span.metadata["status"] == "continued_as_new"
    assert root.span.level == "DEFAULT"
    later = [child for child in root.children if child.span.name == "workflow:Answer"]
    assert [run.span.metadata["status"] for run in later] == ["continued_as_new", "completed"]
    assert all("activity:draft" in children(run) for run in (root, *later))


async def test_two_tenants_at_once_have_traces_of_their_own(traced):
    async with traced.worker():
        await asyncio.gather(*(answered(traced, tenant) for tenant in (traced.acme, traced.beta)))
    await traced.spans()
    traces = traced.receiver.traces()

    assert len(traces) == 2
    for [root] in traces.values():
        tenant = root.span.trace_metadata["tenant_id"]
        assert {span.tags for _, span in root.walk()} == {(f"tenant:{tenant}",)}
        assert root.span.session_id.startswith(f"{tenant}:")
    assert {roots[0].span.trace_metadata["tenant_id"] for roots in traces.values()} == {
        traced.acme,
        traced.beta,
    }


async def test_a_worker_without_a_cache_sends_every_span_once(traced):
    async with traced.worker(max_cached_workflows=0, max_concurrent_workflow_task_polls=1):
        await answered(traced, traced.acme)
        await traced.result(Flaky.run, 4, id=traced.fresh.workflow_id("flaky"))
    names = Counter(span.name for span in await traced.spans())

    assert names == {
        "workflow:Answer": 1,
        "workflow:Notify": 1,
        "workflow:Flaky": 1,
        "activity:draft": 1,
        "activity:tidy": 2,
        "activity:look_up": 4,
        "signal:poke": 1,
        "update:reply": 1,
    }


async def test_each_attempt_of_an_activity_is_a_span(traced):
    async with traced.worker():
        assert await traced.result(Flaky.run, 1, 3) == 3
    root = await traced.trace()
    attempts = [tree.span for tree in root.find("activity:look_up")]

    assert [span.metadata["attempt"] for span in attempts] == [1, 2, 3]
    assert [span.level for span in attempts] == ["ERROR", "ERROR", "DEFAULT"]
    assert [span.status_message for span in attempts] == [
        "ValueError: not yet: 1",
        "ValueError: not yet: 2",
        None,
    ]
    assert [span.status_code for span in attempts] == [2, 2, 0]
    assert [span.output for span in attempts] == [None, None, 3]
    assert not any(span.events for span in attempts)
    assert root.span.level == "DEFAULT"


@pytest.mark.parametrize(
    ("how", "level", "message"),
    [
        ("raise", "ERROR", "Broken: it broke"),
        ("benign", "WARNING", "ApplicationError: it broke"),
        (
            "activity",
            "ERROR",
            "ActivityError: Activity task failed; caused by ValueError: it broke",
        ),
    ],
)
async def test_a_failed_workflow_has_its_level_and_message(traced, how, level, message):
    async with traced.worker():
        with pytest.raises(WorkflowFailureError):
            await traced.result(Fail.run, how)
    root = await traced.trace()

    assert (root.span.level, root.span.status_message) == (level, message)
    assert root.span.metadata["status"] == "failed"
    assert root.span.output is None
    assert root.span.input == [how]


async def test_a_cancelled_workflow_and_its_activity_are_warnings(traced):
    async with traced.worker():
        handle = await traced.start(Fail.run, "wait")
        await until(lambda: has_begun(handle))
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    root = await traced.trace()

    assert (root.span.level, root.span.metadata["status"]) == ("WARNING", "cancelled")
    [waiting] = root.find("activity:wait_to_be_cancelled")
    assert (waiting.span.level, waiting.span.metadata["status"]) == ("WARNING", "cancelled")


async def test_a_failed_workflow_task_does_not_end_the_span(traced):
    async with traced.worker():
        assert await traced.result(FailTask.run) == "done"
    root = await traced.trace()

    assert (root.span.level, root.span.output) == ("DEFAULT", "done")


async def test_signal_with_start_and_update_with_start_belong_to_the_trace(traced):
    client = traced.client(traced.acme)
    start = WithStartWorkflowOperation(
        Answer.run,
        args=[TICKET, 1],
        id=traced.fresh.workflow_id("updated"),
        task_queue=traced.queue,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
    )
    async with traced.worker():
        handle = await traced.start(
            Answer.run, TICKET, 1, start_signal="poke", start_signal_args=["at once"]
        )
        await handle.execute_update(Answer.reply, "yes")
        await handle.result()
        assert await client.execute_update_with_start_workflow(
            Answer.reply, "now", start_workflow_operation=start
        )
        updated = await start.workflow_handle()
        await updated.signal(Answer.poke, "later")
        await updated.result()
    await traced.spans()

    traces = traced.receiver.traces()
    assert len(traces) == 2
    for [root] in traces.values():
        assert {"signal:poke", "update:reply"} <= set(children(root))


async def test_a_signal_from_another_workflow_names_its_sender(traced):
    async with traced.worker():
        receiver = await traced.start(Answer.run, TICKET, 1)
        await traced.result(SignalOther.run, receiver.id, id=traced.fresh.workflow_id("sender"))
        await receiver.execute_update(Answer.reply, "yes")
        await receiver.result()
    spans = await traced.spans()

    [signal] = [span for span in spans if span.name == "signal:poke"]
    [sender] = [span for span in spans if span.name == "workflow:SignalOther"]
    assert signal.trace_id != sender.trace_id
    assert signal.metadata["sender_trace_id"] == sender.trace_id
    assert signal.metadata["sender_span_id"] == sender.span_id


async def test_attributes_of_the_caller_reach_every_span_of_the_trace(traced):
    with trace_attributes(
        user_id="ada", session_id="chat-1", tags=["vip"], metadata={"plan": "gold", "seats": 3}
    ):
        async with traced.worker():
            await answered(traced, traced.acme, runs=2)
    root = await traced.trace()

    for _, span in root.walk():
        assert span.user_id == f"{traced.acme}:ada", span.name
        assert span.session_id == f"{traced.acme}:chat-1"
        assert span.tags == (f"tenant:{traced.acme}", "vip")
        assert span.trace_metadata["plan"] == "gold"
        assert span.trace_metadata["seats"] == 3


async def test_values_are_not_sent_where_capturing_is_off(raw_client, fresh, receiver):
    traced = Traced(
        raw_client,
        fresh,
        receiver,
        capture_input=False,
        capture_output=False,
        environment="staging",
        release="r1",
        version="v2",
    )
    async with traced.worker():
        await answered(traced, traced.acme)
    root = await traced.trace()
    await traced.close()

    for _, span in root.walk():
        assert span.input is None
        assert span.output is None
        assert span.attributes["langfuse.environment"] == "staging"
        assert span.attributes["langfuse.release"] == "r1"
        assert span.attributes["langfuse.version"] == "v2"


async def test_values_are_cut_at_the_limit(raw_client, fresh, receiver):
    traced = Traced(raw_client, fresh, receiver, max_value_bytes=1000)
    async with traced.worker():
        assert await traced.result(Fail.run, "x" * 100_000) == "x" * 100_000
    root = await traced.trace()
    await traced.close()

    for name in ("input", "output"):
        value = root.span.attributes[f"langfuse.observation.{name}"]
        assert 400 < len(value.encode()) <= 1000
        assert value.endswith("(cut)")


async def test_a_trace_is_sent_whole_or_not_at_all(raw_client, fresh, receiver):
    traced = Traced(raw_client, fresh, receiver, sample_rate=0.5)
    ids = [f"flaky-{number}-{fresh.suffix}" for number in range(12)]
    async with traced.worker():
        handles = [await traced.start(Flaky.run, 1, id=each) for each in ids]
        await asyncio.gather(*(handle.result() for handle in handles))
    await traced.spans()
    await traced.close()

    expected = {
        trace
        for handle in handles
        if int((trace := trace_id_of("default", handle.id, handle.first_execution_run_id))[16:], 16)
        < 2**63
    }
    traces = receiver.traces()
    assert set(traces) == expected
    assert all(children(root) == ["activity:look_up"] for [root] in traces.values())


async def test_a_start_needs_no_header_and_an_activity_one_of_90_bytes(traced):
    async with traced.worker():
        plain = await traced.start(Flaky.run, 1)
        await plain.result()
        with trace_attributes(user_id="ada"):
            attributed = await traced.start(Flaky.run, 1, id=traced.fresh.workflow_id("attributed"))
        await attributed.result()

    started, scheduled = await scheduled_headers(plain)
    assert TRACE_HEADER not in started
    payload = scheduled[TRACE_HEADER]
    assert payload.metadata["encoding"] == b"json/plain"
    assert len(json.loads(payload.data)) == 2
    cost = len(TRACE_HEADER) + payload.ByteSize() + 6  # the entry of the map and its two fields
    assert cost <= 90

    started, _ = await scheduled_headers(attributed)
    assert json.loads(started[TRACE_HEADER].data) == ["", "", {"u": "ada"}]


async def test_a_workflow_started_in_a_scope_is_traced_to_its_tenant(traced):
    async with traced.worker():
        with tenant_scope(traced.beta):
            await traced.client().execute_workflow(
                Flaky.run, args=[1], id=traced.fresh.workflow_id(), task_queue=traced.queue
            )
    root = await traced.trace()
    assert root.span.tags == (f"tenant:{traced.beta}",)
