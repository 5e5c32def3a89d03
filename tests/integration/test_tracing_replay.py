"""Tracing and replays, and processes in which tracing is off."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orkestra.devserver import DevServer
from orkestra.langfuse import LangfuseSink
from orkestra.langfuse.langfuse_sink import ActiveAttempt
from orkestra.temporal.tracing import TracingInterceptor
from orkestra.testing import LangfuseReceiver
from orkestra.tracing import FinishedSpan, Span
from tests.support.names import Fresh
from tests.support.replaying import replaying
from tests.support.traced_worker import Traced
from tests.support.waiting import PATIENCE, PATIENTLY
from tests.workflows.traced import ACTIVITIES, WORKFLOWS, Answer, Flaky, Ticket

RUNNER = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("orkestra")
)


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


async def test_a_history_replays_alike_with_and_without_tracing_and_sends_nothing(traced):
    async with traced.worker():
        handle = await traced.start(
            Answer.run, Ticket(1, "hi"), start_signal="poke", start_signal_args=["now"]
        )
        await handle.execute_update(Answer.reply, "yes")
        await handle.result()
    await traced.spans()
    traced.receiver.clear()
    history = await handle.fetch_history()

    for options in (
        {"interceptors": [TracingInterceptor(traced.sink)], "workflow_runner": RUNNER},
        {"plugins": [traced.plugin]},
        {},
    ):
        with replaying(workflows=WORKFLOWS, **options) as replayer:
            assert (await replayer.replay_workflow(history)).replay_failure is None
    assert await traced.spans() == []


async def test_a_history_without_tracing_replays_with_it(traced, raw_client):
    async with Worker(
        raw_client, task_queue=traced.queue, workflows=WORKFLOWS, activities=ACTIVITIES[:3]
    ):
        handle = await raw_client.start_workflow(
            Flaky.run, args=[2], id=traced.fresh.workflow_id(), task_queue=traced.queue
        )
        await handle.result()
    history = await handle.fetch_history()

    options = {"interceptors": [TracingInterceptor(traced.sink)], "workflow_runner": RUNNER}
    with replaying(workflows=WORKFLOWS, **options) as replayer:
        assert (await replayer.replay_workflow(history)).replay_failure is None
    assert await traced.spans() == []


async def test_the_interceptor_works_without_the_plugin_and_without_tenants(
    raw_client, fresh, receiver
):
    sink = LangfuseSink(receiver.settings())
    client = Client(raw_client.service_client, interceptors=[TracingInterceptor(sink)])
    queue = fresh.task_queue()
    async with Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=ACTIVITIES[1:2],
        workflow_runner=RUNNER,
    ):
        workflow_id = fresh.workflow_id()
        await client.execute_workflow(Flaky.run, args=[1], id=workflow_id, task_queue=queue)
    assert await sink.close(PATIENTLY)

    [[root]] = receiver.traces().values()
    assert root.outline() == "workflow:Flaky\n  activity:look_up"
    assert root.span.tags == ()
    assert "tenant_id" not in root.span.trace_metadata
    assert root.span.session_id == workflow_id


class Broken(LangfuseSink):
    """Takes nothing, and says so as it should not."""

    def emit(self, span: FinishedSpan) -> None:
        raise ZeroDivisionError

    async def enter(self, span: Span) -> ActiveAttempt | None:
        raise ZeroDivisionError


async def test_a_sink_that_raises_fails_neither_workflow_nor_activity(raw_client, fresh, receiver):
    client = Client(
        raw_client.service_client,
        interceptors=[TracingInterceptor(Broken(receiver.settings()))],
    )
    queue = fresh.task_queue()
    async with Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=ACTIVITIES[1:2],
        workflow_runner=RUNNER,
    ):
        result = await client.execute_workflow(
            Flaky.run, args=[2], id=fresh.workflow_id(), task_queue=queue
        )
    assert result == 2
    assert receiver.spans == []


async def test_an_unused_sink_imports_and_starts_nothing(fresh, receiver):
    before = threading.active_count()
    sink = LangfuseSink(receiver.settings())
    assert await sink.flush(PATIENTLY)
    assert await sink.close(PATIENTLY)
    assert threading.active_count() <= before


@pytest.mark.parametrize("how", ["off", "unset"])
async def test_nothing_of_langfuse_is_loaded_where_tracing_is_off(
    dev_server: DevServer, fresh, how
):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.programs.untraced",
        dev_server.address,
        fresh.task_queue(),
        how,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert json.loads(said) == {"result": 1, "modules": [], "threads": [], "header": False}
