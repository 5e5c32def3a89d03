"""Scenarios of tracing: each leaves one trace, and each span is sent once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orkestra.temporal.backfill import read_trace
from orkestra.temporal.tracing import TracingInterceptor
from orkestra.testing import LangfuseReceiver, ReceivedSpan
from tests.support.names import Fresh
from tests.support.replaying import replaying
from tests.support.scenarios import (
    SCENES,
    WITH_LOCAL_ACTIVITIES,
    Played,
    Scene,
    Stage,
    faults,
)
from tests.support.waiting import PATIENCE
from tests.workflows import scenes, traced

WORKFLOWS = [*scenes.WORKFLOWS, *traced.WORKFLOWS]
RUNNER = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("orkestra")
)


@pytest.fixture
def receiver(fresh: Fresh) -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as made:
        yield made


@pytest.fixture
async def stage(
    raw_client: Client, fresh: Fresh, receiver: LangfuseReceiver
) -> AsyncIterator[Stage]:
    made = Stage(raw_client, fresh, receiver)
    await made.open_endpoint()
    yield made
    await made.close()


async def all_played(stage: Stage, scenes: list[Scene]) -> dict[str, Played]:
    playing = {scene.__name__: asyncio.create_task(scene(stage)) for scene in scenes}
    try:
        _, late = await asyncio.wait(playing.values(), timeout=2 * PATIENCE)
        assert not late, [name for name, task in playing.items() if task in late]
        return {name: task.result() for name, task in playing.items()}
    finally:
        for task in playing.values():
            task.cancel()


@pytest.mark.parametrize(
    "options",
    [{}, {"max_cached_workflows": 0, "max_concurrent_workflow_task_polls": 1}],
    ids=["cached", "uncached"],
)
async def test_every_scenario_leaves_one_trace_with_one_root_and_each_span_once(stage, options):
    # Without a cache the core interrupts the local activities of one workflow for another's task.
    played_here = [scene for scene in SCENES if not options or scene not in WITH_LOCAL_ACTIVITIES]
    async with stage.worker(**options):
        all_of_it = await all_played(stage, played_here)
    spans = await stage.spans()

    wrong = {
        name: found
        for name, scene in all_of_it.items()
        if (found := faults([s for s in spans if s.trace_id == scene.trace_id], scene))
    }
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert {span.trace_id for span in spans} == {scene.trace_id for scene in all_of_it.values()}

    assert_attributes_are_inherited(all_of_it, spans)
    await assert_histories_tell_the_same(stage, all_of_it, spans)
    await assert_histories_replay_silently(stage, all_of_it)


def assert_attributes_are_inherited(
    all_of_it: dict[str, Played], spans: list[ReceivedSpan]
) -> None:
    """However a workflow was started, and whatever it calls, Nexus included."""
    for name, scene in all_of_it.items():
        tenant = scene.handle.id.partition(":")[0]
        user, session, tags = None, scene.handle.id, [f"tenant:{tenant}"]
        if name == "attributed":
            user, session, tags = f"{tenant}:ada", f"{tenant}:chat", [*tags, "vip"]
        for span in (span for span in spans if span.trace_id == scene.trace_id):
            found = (span.user_id, span.session_id, list(span.tags))
            assert found == (user, session, tags), (name, span.name)
            assert span.trace_metadata["tenant_id"] == tenant


async def histories_of(histories: list[WorkflowHistory]) -> AsyncIterator[WorkflowHistory]:
    for history in histories:
        yield history


async def assert_histories_tell_the_same(
    stage: Stage, all_of_it: dict[str, Played], spans: list[ReceivedSpan]
) -> None:
    """Whatever a history has of a span is what the worker sent."""
    sent = {(s.trace_id, s.span_id): (s.parent_id, s.name, s.start_ns) for s in spans}
    for name, scene in all_of_it.items():
        told = [
            partial.span
            for partial in await read_trace(stage.client, scene.handle.id, whole_chain=True)
        ]
        unsent = Counter(
            span.name
            for span in told
            if sent.get((span.trace_id, span.span_id)) != (span.parent_id, span.name, span.start_ns)
        )
        assert unsent == scene.unsent, name


async def assert_histories_replay_silently(stage: Stage, all_of_it: dict[str, Played]) -> None:
    stage.receiver.clear()
    histories = [await scene.handle.fetch_history() for scene in all_of_it.values()]
    options: list[dict[str, Any]] = [
        {"plugins": [stage.plugin]},
        {
            "interceptors": [TracingInterceptor(stage.plugin._state.sink)],
            "workflow_runner": RUNNER,
        },
    ]
    for each in options:
        with replaying(workflows=WORKFLOWS, **each) as replayer:
            replayed = await replayer.replay_workflows(
                histories_of(histories), raise_on_replay_failure=False
            )
        assert replayed.replay_failures == {}
    assert await stage.spans() == []
