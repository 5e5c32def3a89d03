"""A trace rebuilt from history equals the live one, and only missing spans are sent."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import nexusrpc
import pytest
from temporalio import nexus
from temporalio.api.common.v1 import Payload
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)
from temporalio.worker import Worker

from orkestra import (
    ALL_TENANTS,
    LangfuseProject,
    OrkestraConfig,
    OrkestraPlugin,
    TenantSettings,
)
from orkestra.errors import (
    ConfigurationError,
    ExecutionNotFoundError,
    InvalidQueryError,
    LangfuseUnavailableError,
    UnknownTenantError,
)
from orkestra.langfuse import langfuse_sink as sink
from orkestra.temporal.backfill import backfill as sending
from orkestra.temporal.backfill import backfill_trace, backfill_traces, read_trace
from orkestra.testing import Behaviour, LangfuseReceiver
from orkestra.tracing import CaptureLimits
from tests.support.backfill import backfill, differences, is_earlier_attempt, key, names, worker
from tests.support.backfill_scenarios import (
    ONLY_FROM_HISTORY,
    fail,
    has_done,
    is_pending,
    terminate,
)
from tests.support.names import Fresh
from tests.support.traced_worker import Traced
from tests.support.waiting import PATIENTLY, becomes
from tests.workflows import rebuilt, traced
from tests.workflows.nexus_caller import Backing, Caller, Desk

NOW = timedelta()


@pytest.fixture
async def live(raw_client: Client, fresh: Fresh) -> AsyncIterator[Traced]:
    """Process whose workers trace live."""
    with LangfuseReceiver(public_key="pk-lf-live") as receiver:
        made = Traced(raw_client, fresh, receiver, timer_threshold=timedelta(milliseconds=200))
        yield made
        await made.close()


@pytest.fixture
async def again(live: Traced, raw_client: Client) -> AsyncIterator[Traced]:
    """Process that backfills, to another project."""
    with LangfuseReceiver(public_key="pk-lf-again") as receiver:
        made = Traced(raw_client, live.fresh, receiver, timer_threshold=timedelta(milliseconds=200))
        yield made
        await made.close()


@pytest.mark.parametrize("scenario", ONLY_FROM_HISTORY, ids=lambda each: each.__name__)
async def test_rebuilt_spans_have_the_ids_parents_names_and_starts_of_the_live_ones(
    scenario, live, again
):
    async with worker(live):
        handle = await scenario(live)
    await backfill(again, handle.id)
    only_live, only_rebuilt = await differences(live, again)
    made = await again.spans()
    assert [span.name for span in only_live if not is_earlier_attempt(span, made)] == []
    assert names(only_rebuilt) == ONLY_FROM_HISTORY[scenario]


@nexusrpc.handler.service_handler(service=Desk)
class Handler:
    @nexus.workflow_run_operation
    async def backed(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Backing.run, text, id="backing")

    @nexus.workflow_run_operation
    async def meddling(
        self, ctx: nexus.WorkflowRunOperationContext, text: str
    ) -> nexus.WorkflowHandle[str]:
        raise nexusrpc.HandlerError("no", type=nexusrpc.HandlerErrorType.BAD_REQUEST)


async def test_nexus_operations_are_rebuilt_with_the_workflows_behind_them(live, again):
    name = f"endpoint-{live.fresh.suffix}"
    target = EndpointTarget.Worker(namespace="default", task_queue=live.queue)
    spec = EndpointSpec(name=name, target=EndpointTarget(worker=target))
    await live.raw.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    async with Worker(
        live.client(),
        task_queue=live.queue,
        workflows=[Caller, Backing],
        nexus_service_handlers=[Handler()],
    ):
        good = await live.start(Caller.run, name, "backed")
        await good.result()
        bad = await live.start(Caller.run, name, "meddling", id=live.fresh.workflow_id("bad"))
        with pytest.raises(WorkflowFailureError):
            await bad.result()
    sent = await live.spans()
    for handle in (good, bad):
        await backfill(again, handle.id)
    made = await again.spans()
    assert {key(span) for span in made} == {key(span) for span in sent}
    assert sorted(root.outline() for [root] in again.receiver.traces().values()) == [
        "workflow:Caller\n  nexus:Desk/backed\n    workflow:Backing",
        "workflow:Caller\n  nexus:Desk/meddling",
    ]


async def test_only_missing_spans_are_sent_and_none_twice(live):
    async with worker(live):
        handle = await terminate(live)
    await live.spans()
    planned = await backfill(live, handle.id, force=False, older_than=NOW, dry_run=True)
    assert [span.name for span in planned.missing] == ["workflow:Waits"]
    assert (planned.sent, planned.present) == (0, 1)
    before = await live.spans()
    done = await backfill(live, handle.id, force=False, older_than=NOW)
    assert (done.sent, done.present) == (1, 1)
    added = [span for span in await live.spans() if span not in before]
    assert [(span.name, span.level, span.status_message) for span in added] == [
        ("workflow:Waits", "WARNING", "terminated: stuck")
    ]
    once_more = await backfill(live, handle.id, force=False, older_than=NOW)
    assert (once_more.sent, once_more.present) == (0, 2)
    [[root]] = live.receiver.traces().values()
    assert [child.span.name for child in root.children] == ["activity:count_to"]


async def test_a_bound_client_may_omit_the_tenants_prefix(live, again):
    async with worker(live):
        handle = await fail(live)
    await backfill(again, handle.id.removeprefix(f"{live.acme}:"))
    assert await differences(live, again) == ([], [])


async def test_spans_that_ended_a_moment_ago_are_left_to_the_worker(live):
    async with worker(live):
        handle = await terminate(live)
    report = await backfill(live, handle.id, force=False)
    assert (report.sent, report.present, report.recent) == (0, 0, 2)


async def test_only_ended_spans_of_a_running_workflow_are_sent(live, again):
    async with worker(live):
        handle = await live.start(rebuilt.Waits.run)
        await has_done(handle, "activity_task_completed_event_attributes")
        report = await backfill(again, handle.id)
        assert ([span.name for span in report.missing], report.unended) == (
            ["activity:count_to"],
            1,
        )
        await handle.signal("go")
        await handle.result()
    rest = await backfill(again, handle.id, force=False, older_than=NOW)
    assert (rest.sent, rest.present) == (3, 1)
    assert await differences(live, again) == ([], [])


async def test_nothing_is_sent_if_langfuse_does_not_answer(live):
    async with worker(live):
        handle = await terminate(live)
    before = await live.spans()
    with (
        live.receiver.behaving(Behaviour.UNAVAILABLE),
        pytest.raises(LangfuseUnavailableError, match="503"),
    ):
        await backfill(live, handle.id, force=False, older_than=NOW)
    assert await live.spans() == before


async def test_an_error_is_raised_if_langfuse_does_not_accept_the_spans(live, again):
    async with worker(live):
        handle = await fail(live)
    wrong = Traced(live.raw, live.fresh, again.receiver, secret_key="wrong")
    with pytest.raises(LangfuseUnavailableError, match="did not accept"):
        await backfill(wrong, handle.id)
    await wrong.sink.close(PATIENTLY)
    assert again.receiver.spans == []


async def test_spans_that_still_wait_for_langfuse_are_not_sent_again(live, again, monkeypatch):
    monkeypatch.setattr(sending, "_LANGFUSE_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(sink, "_INGESTION_SECONDS", 0.0)
    async with worker(live):
        handle = await fail(live)
    with again.receiver.behaving(Behaviour.UNAVAILABLE):
        with pytest.raises(LangfuseUnavailableError, match="did not accept"):
            await backfill(again, handle.id)
        with pytest.raises(LangfuseUnavailableError, match="still wait"):
            await backfill(again, handle.id, force=False, older_than=NOW)
    monkeypatch.setattr(sending, "_LANGFUSE_TIMEOUT", PATIENTLY)
    report = await backfill(again, handle.id, force=False, older_than=NOW)
    assert (report.sent, report.present) == (0, len(await again.spans()))


async def test_many_workflows_are_backfilled_concurrently_and_no_child_twice(live, again):
    async with worker(live):
        await asyncio.gather(*(answer(live, number) for number in range(3)))
    query = f"TaskQueue = '{live.queue}'"

    async def closed() -> int:
        return (await live.raw.count_workflows(f"{query} AND ExecutionStatus = 'Completed'")).count

    await becomes(closed, 6)
    client = again.client(again.acme)
    reports = [
        report
        async for report in backfill_traces(
            client, query, children=True, older_than=NOW, concurrency=3
        )
    ]
    assert len(reports) == 6
    made = await again.spans()
    assert {key(span) for span in await live.spans()} == {key(span) for span in made}
    assert sum(report.sent for report in reports) == len(made)
    assert [each async for each in backfill_traces(again.client(again.beta), query)] == []


async def answer(live: Traced, number: int) -> None:
    """A workflow with a child."""
    workflow_id = live.fresh.workflow_id(f"answer-{number}")
    handle = await live.start(traced.Answer.run, traced.Ticket(number, "hello"), id=workflow_id)
    await handle.execute_update("reply", "yes")
    await handle.signal("poke", "now")
    await handle.result()


async def test_workflows_from_before_orkestra_are_rebuilt_without_a_tenant(live, again):
    with ThreadPoolExecutor(2) as threads:
        async with Worker(
            live.raw,
            task_queue=live.queue,
            workflows=traced.WORKFLOWS,
            activities=traced.ACTIVITIES,
            activity_executor=threads,
        ):
            handle = await live.raw.start_workflow(
                traced.Answer.run,
                args=[traced.Ticket(1, "hello"), 1],
                id=live.fresh.workflow_id("old"),
                task_queue=live.queue,
            )
            await handle.execute_update("reply", "yes")
            await handle.signal("poke", "now")
            await handle.result()
    operator = Client(live.raw.service_client, plugins=[again.plugin.for_tenant(ALL_TENANTS)])
    await backfill_trace(operator, handle.id, force=True)
    await again.spans()
    outlines = [root.outline() for [root] in again.receiver.traces().values()]
    # The child was not told which trace it belonged to.
    assert sorted(sorted(outline.splitlines()) for outline in outlines) == [
        [
            "  activity:draft",
            "  activity:tidy",
            "  signal:poke",
            "  update:reply",
            "workflow:Answer",
        ],
        ["  activity:tidy", "workflow:Notify"],
    ]
    root = next(span for span in await again.spans() if span.name == "workflow:Answer")
    assert root.tags == ()
    assert root.input == [{"number": 1, "text": "hello"}, 1]
    assert root.output == "draft of 1: yes"
    with pytest.raises(ExecutionNotFoundError, match="has no workflow"):
        await backfill(again, handle.id)


class Backwards(PayloadCodec):
    """Codec in place of encryption."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/backwards"}, data=p.SerializeToString()[::-1])
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload.FromString(p.data[::-1]) if p.metadata["encoding"] == b"binary/backwards" else p
            for p in payloads
        ]


async def test_encrypted_values_are_read_by_the_clients_codec_and_hidden_without_it(live, again):
    converter = replace(
        DataConverter.default,
        payload_codec=Backwards(),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
    config = live.client().config()
    reader = Client(**{**config, "data_converter": converter})
    acme = Client(
        live.raw.service_client,
        plugins=[live.plugin.for_tenant(live.acme)],
        data_converter=converter,
    )
    with ThreadPoolExecutor(2) as threads:
        async with Worker(
            reader,
            task_queue=live.queue,
            workflows=traced.WORKFLOWS,
            activities=traced.ACTIVITIES,
            activity_executor=threads,
        ):
            handle = await acme.start_workflow(
                traced.Fail.run,
                args=["activity", "a secret"],
                id=live.fresh.workflow_id(),
                task_queue=live.queue,
            )
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    with_codec = Client(
        live.raw.service_client,
        plugins=[again.plugin.for_tenant(live.acme)],
        data_converter=converter,
    )
    await backfill_trace(with_codec, handle.id, force=True)
    [sent, _] = sorted(await live.spans(), key=lambda span: span.name)
    [made, _] = sorted(await again.spans(), key=lambda span: span.name)
    assert made.input == sent.input == ["a secret"]
    assert made.status_message == sent.status_message == "ValueError: a secret"
    again.receiver.clear()
    await backfill(again, handle.id)
    for span in await again.spans():
        assert all(re.fullmatch(r"<\d+ bytes of binary/backwards>", each) for each in span.input)
    assert b"a secret" not in b"".join(again.receiver.bodies)


async def test_a_refused_workflow_is_rebuilt_without_values_and_tenant(live, again):
    async with worker(live):
        handle = await live.raw.start_workflow(
            traced.Fail.run,
            args=["raise", "a secret"],
            id=live.fresh.workflow_id(),
            task_queue=live.queue,
        )
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    operator = Client(live.raw.service_client, plugins=[again.plugin.for_tenant(ALL_TENANTS)])
    await backfill_trace(operator, handle.id, force=True)
    [span] = await again.spans()
    assert (span.level, span.input, span.tags) == ("ERROR", None, ())
    assert b"a secret" not in b"".join(again.receiver.bodies)


async def test_unsampled_spans_are_not_sent(live, again):
    async with worker(live):
        handle = await fail(live)
    unsampled = Traced(live.raw, live.fresh, again.receiver, sample_rate=0.0)
    report = await backfill(unsampled, handle.id)
    await unsampled.close()
    assert (report.sent, report.unsampled) == (0, 2)
    assert again.receiver.spans == []


async def test_a_trace_can_be_read_without_langfuse(live):
    async with worker(live):
        handle = await fail(live)
    plugin = OrkestraPlugin(OrkestraConfig(), tenant=live.acme)
    untraced = Client(live.raw.service_client, plugins=[plugin])
    limits = CaptureLimits()
    run, refused = await read_trace(untraced, handle.id, limits=limits)
    assert [each.span.name for each in (run, refused)] == ["workflow:Fail", "activity:refuse"]
    assert refused.outcome.message.value == "ValueError: it broke"
    assert refused.span.input.value == ["it broke"]
    assert run.end_ns >= refused.end_ns > refused.span.start_ns > run.span.start_ns
    with pytest.raises(ConfigurationError, match="tracing is off"):
        await backfill_trace(untraced, handle.id)


async def test_unknown_workflows_and_malformed_queries_are_errors(live, again):
    with pytest.raises(ExecutionNotFoundError, match="'nothing'"):
        await backfill(again, "nothing")
    operator = Client(live.raw.service_client, plugins=[again.plugin.for_tenant(ALL_TENANTS)])
    with pytest.raises(ExecutionNotFoundError, match="'no-run'"):
        await backfill_trace(operator, "nothing", run_id="no-run")
    for client in (operator, again.client(again.acme)):
        with pytest.raises(InvalidQueryError, match="refused"):
            await anext(backfill_traces(client, "nonsense ="))


async def test_each_tenants_spans_go_to_its_own_project(live, again):
    async with worker(live):
        handle = await fail(live)
    shared = again.receiver
    with LangfuseReceiver(public_key="pk-lf-own") as own:
        project = LangfuseProject(
            public_key=own.public_key, secret_key=own.secret_key, base_url=own.url
        )
        config = OrkestraConfig(
            langfuse=shared.settings(), tenants={live.acme: TenantSettings(langfuse=project)}
        )
        plugin = OrkestraPlugin(config)
        operator = Client(live.raw.service_client, plugins=[plugin.for_tenant(ALL_TENANTS)])
        assert (await backfill_trace(operator, handle.id, older_than=NOW)).sent == 2
        assert (await backfill_trace(operator, handle.id, older_than=NOW)).present == 2
        await plugin.close()
        assert {key(span) for span in own.spans} == {key(span) for span in await live.spans()}
    assert shared.spans == []


async def test_workflows_of_unknown_tenants_are_skipped(live, again):
    async with worker(live):
        handle = await fail(live)
    config = OrkestraConfig(
        langfuse=again.receiver.settings(), tenants={again.beta: TenantSettings()}
    )
    plugin = OrkestraPlugin(config)
    operator = Client(live.raw.service_client, plugins=[plugin.for_tenant(ALL_TENANTS)])
    query = f"TaskQueue = '{live.queue}'"
    assert [each async for each in backfill_traces(operator, query, force=True)] == []
    with pytest.raises(UnknownTenantError):
        await backfill_trace(operator, handle.id, force=True)
    await plugin.close()
    assert again.receiver.spans == []


async def test_an_activity_abandoned_by_its_terminated_workflow_is_shown_and_never_sent(
    live, again
):
    async with worker(live):
        handle = await live.start(traced.Fail.run, "wait")
        await is_pending(handle)
        await handle.terminate(reason="stuck")
    report = await backfill(again, handle.id)
    assert ([span.name for span in report.missing], report.unended) == (["workflow:Fail"], 1)
    run, left = await read_trace(again.client(again.acme), handle.id)
    assert (run.is_abandoned, left.is_abandoned) == (False, True)
    assert left.span.name == "activity:wait_to_be_cancelled"
