"""The outbox with other runners and plugins, and with workers that end while spans are held."""

import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from orkestra.testing import LangfuseReceiver
from tests.support.names import Fresh
from tests.support.scenarios import Played, Stage, faults, played, raced
from tests.support.waiting import until
from tests.workflows import scenes


@pytest.fixture
def receiver(fresh: Fresh) -> Iterator[LangfuseReceiver]:
    with LangfuseReceiver(public_key=f"pk-lf-{fresh.suffix}") as made:
        yield made


@pytest.fixture
async def stage(
    raw_client: Client, fresh: Fresh, receiver: LangfuseReceiver
) -> AsyncIterator[Stage]:
    made = Stage(raw_client, fresh, receiver, queries=True)
    yield made
    await made.close()


def spans_of(stage: Stage, scene: Played) -> list[Any]:
    return [span for span in stage.receiver.spans if span.trace_id == scene.trace_id]


@dataclasses.dataclass(frozen=True)
class TheirSandbox(SandboxedWorkflowRunner):
    """A runner of another plugin, with a setting of its own."""

    theirs: str = "unset"

    def create_instance(self, det: Any) -> Any:
        assert self.theirs == "set"
        return super().create_instance(det)


def with_their_sandbox(runner: WorkflowRunner | None) -> WorkflowRunner:
    assert isinstance(runner, SandboxedWorkflowRunner)
    return TheirSandbox(
        restrictions=runner.restrictions, runner_class=runner.runner_class, theirs="set"
    )


@pytest.mark.parametrize("how", ["unsandboxed", "debugged", "after another plugin"])
async def test_each_span_is_sent_once_with_any_runner_that_the_plugin_wraps(stage, how):
    options: dict[str, Any] = {}
    if how == "unsandboxed":
        options["workflow_runner"] = UnsandboxedWorkflowRunner()
    elif how == "after another plugin":
        theirs = SimplePlugin("theirs", workflow_runner=with_their_sandbox)
        options["client"] = Client(stage.raw.service_client, plugins=[theirs, stage.plugin])
    scene = None
    if how == "debugged":
        options["debug_mode"] = True  # it runs workflows on the loop, which a race would block
    async with stage.worker(**options):
        if how == "debugged":
            handle = await stage.start(scenes.Leaf.run)
            await handle.result()
            scene = played(handle, "workflow:Leaf", "activity:step")
        else:
            scene = await raced(stage)
    await stage.spans()
    assert faults(spans_of(stage, scene), scene) == ""


async def test_with_a_runner_that_hides_the_hook_spans_are_sent_at_once_with_a_warning(
    stage, caplog
):
    """Another plugin replaces the runner of workflows without sandbox, and drops ours."""

    def replaced(config: Any) -> Any:
        return {**config, "unsandboxed_workflow_runner": UnsandboxedWorkflowRunner()}

    class Replacing(SimplePlugin):
        def configure_worker(self, config: Any) -> Any:
            return replaced(config)

    with caplog.at_level(logging.WARNING, "orkestra"):
        async with stage.worker(plugins=[Replacing("theirs")]):
            handle = await stage.start(scenes.Buggy.run)
            await handle.signal(scenes.Buggy.poke)
            await handle.result()
    await stage.spans()
    names = {span.name for span in stage.receiver.spans}
    assert names == {"workflow:Buggy", "signal:poke", "activity:step"}
    assert len([text for text in caplog.messages if "runner was not wrapped" in text]) == 1


async def test_a_worker_that_ends_sends_the_held_spans_of_its_runs(stage):
    async with stage.worker():
        handle = await stage.start(scenes.Mixed.run)
        await handle.signal(scenes.Mixed.finish)
        assert await handle.execute_update(scenes.Mixed.add, "taken") == 1
    await stage.spans()
    scene = played(handle)
    names = sorted(span.name for span in spans_of(stage, scene))
    assert names == ["activity:step", "signal:finish", "update:add"]
    await handle.terminate()


async def test_held_spans_of_an_idle_run_are_sent_by_the_timer(stage):
    async with stage.worker():
        handle = await stage.start(scenes.Mixed.run)
        await handle.signal(scenes.Mixed.finish)

        async def has_come() -> bool:
            await stage.spans()
            return any(span.name == "signal:finish" for span in spans_of(stage, played(handle)))

        await until(has_come)
        await handle.terminate()


async def test_queries_have_spans_where_the_option_is_set(stage):
    async with stage.worker():
        handle = await stage.start(scenes.Mixed.run, start_signal="finish")
        assert await handle.query(scenes.Mixed.state) == 0
        assert await handle.query(scenes.Mixed.state) == 0
        await handle.query("__temporal_workflow_metadata")
        await handle.terminate()
    await stage.spans()
    queries = [span for span in spans_of(stage, played(handle)) if span.name.startswith("query")]
    assert [(span.name, span.output) for span in queries] == [("query:state", 0)] * 2
    assert len({span.span_id for span in queries}) == 2


async def test_workflows_link_to_their_page_where_its_address_is_known(raw_client, fresh, receiver):
    stage = Stage(raw_client, fresh, receiver, ui_url="http://localhost:8233")
    async with stage.worker():
        handle = await stage.start(scenes.Leaf.run)
        await handle.result()
    [own] = [span for span in await stage.spans() if span.name == "workflow:Leaf"]
    await stage.close()
    page = own.metadata["temporal_ui"]
    assert page.startswith("http://localhost:8233/namespaces/default/workflows/")
    assert page.endswith(f"Leaf-{fresh.suffix}/{handle.first_execution_run_id}")
