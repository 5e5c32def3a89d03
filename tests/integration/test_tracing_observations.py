"""Traces with observations that the application makes with the Langfuse SDK."""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from langfuse import Langfuse
from temporalio.client import Client
from temporalio.worker import SharedStateManager, Worker

from orkestra import OrkestraConfig, OrkestraPlugin
from orkestra.devserver import DevServer
from orkestra.testing import LangfuseReceiver, ReceivedSpan
from orkestra.tracing import trace_attributes
from tests.support.names import Fresh
from tests.support.traced_worker import Traced
from tests.support.waiting import PATIENCE, PATIENTLY, until
from tests.workflows.observed import IN_PROCESSES, Observe
from tests.workflows.traced import Flaky


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


async def langfuse_of(traced: Traced) -> Langfuse:
    """The SDK's client, as `get_client()` would give it to an application of one project."""
    traced.sink.start()
    await asyncio.wrap_future(traced.sink._shared._opening)
    return Langfuse(public_key=traced.receiver.public_key, secret_key="ignored")


def path(spans: list[ReceivedSpan], name: str) -> list[str]:
    """The names from the root down to a span."""
    by_id = {span.span_id: span for span in spans}
    [span] = [span for span in spans if span.name == name]
    names = [span.name]
    while span.parent_id is not None:
        span = by_id[span.parent_id]
        names.append(span.name)
    return names[::-1]


def tags_of(tenant: str) -> tuple[str, ...]:
    return (f"tenant:{tenant}",)


@pytest.mark.parametrize("name", ["observing", "observing_in_a_thread"])
async def test_observations_of_an_activity_nest_under_its_span(traced, name):
    with trace_attributes(user_id="ada", tags=["vip"], metadata={"plan": "gold"}):
        async with traced.worker():
            assert await traced.result(Observe.run, [name], "why?") == ["42"]
    spans = await traced.spans()

    assert path(spans, "generate") == [
        "workflow:Observe",
        f"activity:{name}",
        "think",
        "generate",
    ]
    assert len({span.trace_id for span in spans}) == 1
    assert [span.name for span in spans if span.is_app_root] == ["workflow:Observe"]
    for span in spans:
        assert set(span.tags) == {f"tenant:{traced.acme}", "vip"}, span.name
        assert span.trace_metadata["tenant_id"] == traced.acme
        assert span.trace_metadata["plan"] == "gold"
        assert span.user_id == f"{traced.acme}:ada"
        assert span.session_id.startswith(f"{traced.acme}:workflow-")
    [generation] = [span for span in spans if span.name == "generate"]
    assert generation.type == "generation"
    assert generation.output == 42


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_observations_made_in_other_processes_nest_under_their_attempts(traced, method):
    context = multiprocessing.get_context(method)
    with (
        context.Manager() as state,
        ThreadPoolExecutor(1) as poller,
        ProcessPoolExecutor(2, mp_context=context) as pool,
    ):
        async with Worker(
            traced.client(),
            task_queue=traced.queue,
            workflows=[Observe],
            activities=IN_PROCESSES,
            activity_executor=pool,
            shared_state_manager=SharedStateManager.create_from_multiprocessing(state, poller),
        ):
            for tenant in (traced.acme, traced.beta):
                asked = traced.result(
                    Observe.run, ["observing_in_a_process"], "why?", tenant=tenant, id=tenant
                )
                assert await asked == ["42"]
            failing = await traced.start(Observe.run, ["failing_in_a_process"], "why?", id="fail")

            async def all_have_come() -> bool:
                await traced.plugin.flush(PATIENTLY)
                return len(traced.receiver.spans) >= 11

            await until(all_have_come)
            await failing.terminate()
    spans = await traced.spans()

    for tenant in (traced.acme, traced.beta):
        [root] = [s for s in spans if s.name == "workflow:Observe" and s.tags == tags_of(tenant)]
        theirs = [span for span in spans if span.trace_id == root.trace_id]
        assert path(theirs, "generate") == [
            "workflow:Observe",
            "activity:observing_in_a_process",
            "think",
            "generate",
        ]
        assert {span.tags for span in theirs} == {tags_of(tenant)}
        assert [span.name for span in theirs if span.is_app_root] == ["workflow:Observe"]
    failed = next(span for span in spans if span.name == "activity:failing_in_a_process")
    assert failed.status_message == "LookupError: why?"
    assert "think" in [span.name for span in spans if span.parent_id == failed.span_id]


async def test_an_instrumentation_of_opentelemetry_nests_and_other_libraries_stay_out(traced):
    async with traced.worker():
        await traced.result(Observe.run, ["instrumented"], "why?")
    spans = await traced.spans()

    assert path(spans, "chat") == ["workflow:Observe", "activity:instrumented", "chat"]
    assert len(spans) == 3
    [chat] = [span for span in spans if span.name == "chat"]
    assert chat.tags == tags_of(traced.acme)
    assert not chat.is_app_root


async def test_activity_code_may_update_the_span_of_its_attempt(traced):
    async with traced.worker():
        await traced.result(Observe.run, ["updating"], "noted")
    spans = await traced.spans()

    assert {span.name for span in spans} == {"workflow:Observe", "renamed"}
    [attempt] = [span for span in spans if span.name == "renamed"]
    assert attempt.metadata["note"] == "noted"
    assert attempt.type == "tool"


async def test_observations_of_two_tenants_at_once_do_not_mix(traced):
    async with traced.worker():
        await asyncio.gather(
            *(
                traced.result(
                    Observe.run,
                    ["observing", "observing_in_a_thread"],
                    "why?",
                    tenant=tenant,
                    id=f"{number}-{traced.fresh.suffix}",
                )
                for tenant in (traced.acme, traced.beta)
                for number in range(3)
            )
        )
    await traced.spans()
    traces = traced.receiver.traces()

    assert len(traces) == 6
    for [root] in traces.values():
        assert len(list(root.walk())) == 7
        tags = {span.tags for _, span in root.walk()}
        assert tags in ({(f"tenant:{traced.acme}",)}, {(f"tenant:{traced.beta}",)})


async def test_a_workflow_started_in_an_observation_is_its_child(traced):
    langfuse = await langfuse_of(traced)
    async with traced.worker():
        with (
            langfuse.start_as_current_observation(name="request"),
            langfuse.start_as_current_observation(name="step"),
        ):
            await traced.result(Observe.run, ["observing"], "why?")
    spans = await traced.spans()

    assert path(spans, "generate")[:4] == [
        "request",
        "step",
        "workflow:Observe",
        "activity:observing",
    ]
    assert len({span.trace_id for span in spans}) == 1
    assert [span.name for span in spans if span.is_app_root] == ["request"]


async def test_a_trace_that_began_elsewhere_is_not_joined(traced):
    langfuse = await langfuse_of(traced)
    elsewhere = {"trace_id": "ab" * 16, "parent_span_id": "cd" * 8}
    async with traced.worker():
        with (
            langfuse.start_as_current_observation(name="request", trace_context=elsewhere),
            langfuse.start_as_current_observation(name="step"),
        ):
            await traced.result(Flaky.run, 1)
    spans = await traced.spans()

    assert path(spans, "activity:look_up") == ["workflow:Flaky", "activity:look_up"]
    traces = {span.trace_id for span in spans if ":" in span.name}
    assert traces.isdisjoint({"ab" * 16})


async def test_two_tenants_do_not_share_the_trace_of_one_observation(traced):
    langfuse = await langfuse_of(traced)
    async with traced.worker():
        with langfuse.start_as_current_observation(name="request"):
            await traced.result(Flaky.run, 1, tenant=traced.acme)
            await traced.result(Flaky.run, 1, tenant=traced.beta)
    spans = await traced.spans()

    [request] = [span for span in spans if span.name == "request"]
    joined = {span.tags for span in spans if span.trace_id == request.trace_id and span.tags}
    assert joined == {(f"tenant:{traced.acme}",)}
    assert len({span.trace_id for span in spans}) == 2


async def test_a_workflow_started_by_an_activity_is_its_child(traced):
    async with traced.worker():
        other = traced.fresh.workflow_id("other")
        await traced.result(Observe.run, ["starting_another"], other)
    spans = await traced.spans()

    assert path(spans, "workflow:Nothing") == [
        "workflow:Observe",
        "activity:starting_another",
        "workflow:Nothing",
    ]


async def test_two_plugins_with_one_key_share_one_langfuse_client(traced, raw_client, receiver):
    other = OrkestraPlugin(OrkestraConfig(langfuse=receiver.settings()))
    client = Client(raw_client.service_client, plugins=[other.for_tenant(traced.acme)])
    langfuse = await langfuse_of(traced)
    async with traced.worker():
        with langfuse.start_as_current_observation(name="request"):
            await client.execute_workflow(
                Flaky.run, args=[1], id=traced.fresh.workflow_id(), task_queue=traced.queue
            )
    spans = await traced.spans()
    assert path(spans, "activity:look_up") == ["request", "workflow:Flaky", "activity:look_up"]

    await other._state.sink.close(PATIENTLY)
    receiver.clear()
    async with traced.worker():
        await traced.result(Observe.run, ["observing"], "still there?")
    assert path(await traced.spans(), "generate")[0] == "workflow:Observe"


async def test_a_key_can_be_used_again_after_its_sink_was_closed(traced, raw_client, fresh):
    async with traced.worker():
        await traced.result(Observe.run, ["observing"], "first")
    await traced.spans()
    await traced.close()
    traced.receiver.clear()

    again = Traced(raw_client, Fresh(), traced.receiver)
    async with again.worker():
        await again.result(Observe.run, ["observing"], "second")
    assert len(path(await again.spans(), "generate")) == 4
    await again.close()


async def test_an_application_with_its_own_langfuse_client_has_one_trace(
    dev_server: DevServer, fresh, receiver
):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.programs.own_langfuse",
        dev_server.address,
        fresh.task_queue(),
        env={
            **os.environ,
            "LANGFUSE_PUBLIC_KEY": receiver.public_key,
            "LANGFUSE_SECRET_KEY": receiver.secret_key,
            "LANGFUSE_BASE_URL": receiver.url,
        },
    )
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    spans = receiver.spans

    assert path(spans, "generate") == [
        "request",
        "workflow:Observe",
        "activity:observing",
        "think",
        "generate",
    ]
    assert [span.name for span in spans if span.is_app_root] == ["request"]
