"""Refusals by the directory's answer replay, whatever the directory answers now."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowQueryFailedError
from temporalio.worker import Replayer

from orkestra import OrkestraPlugin
from orkestra.directory import TenantRecord
from tests.support.tenants import Town, failure
from tests.workflows.placed import WORKFLOWS, Sends, Where


@pytest.fixture
def town(dev_server, raw_client, fresh) -> Town:
    return Town(dev_server.address, raw_client, fresh)


async def replayed(town: Town, handle: WorkflowHandle[Any, Any]) -> None:
    """Replay a history without asking the directory."""
    asked = town.questions
    with ThreadPoolExecutor(1) as thread:
        replayer = Replayer(
            workflows=WORKFLOWS,
            plugins=[OrkestraPlugin(town.config, directory=town.directory)],
            workflow_task_executor=thread,
        )
        history = await town.raw.get_workflow_handle(handle.id).fetch_history()
        await replayer.replay_workflow(history)
    assert town.questions == asked


@pytest.mark.parametrize(
    ("tenant", "kind"), [("late", "TenantSuspended"), ("stranger", "TenantUnknown")]
)
@pytest.mark.parametrize("cache", [1000, 0])
async def test_a_refused_run_replays_and_fails_its_queries(town, tenant, kind, cache):
    tenant = town.fresh.tenant(tenant)
    async with town.worker(max_cached_workflows=cache):
        handle = await town.forger(tenant).start_workflow(
            Sends.run,
            args=["activity", None, None, True],
            id=f"{tenant}:w",
            task_queue=town.queue,
        )
        assert await failure(handle) == (kind, True)
        town.records[tenant] = TenantRecord(tenant)
        await replayed(town, handle)
        with pytest.raises(WorkflowQueryFailedError, match="refused when it ran"):
            await town.client(tenant).get_workflow_handle("w").query(Sends.told)


@pytest.mark.parametrize("kind", ["activity", "child", "continue"])
@pytest.mark.parametrize("cache", [1000, 0])
async def test_a_refused_command_replays_after_its_queue_became_shared(town, kind, cache):
    async with town.worker(max_cached_workflows=cache):
        handle = await town.client(town.shared).start_workflow(
            Sends.run, args=[kind, town.own_queue, None, True], id=town.id(), task_queue=town.queue
        )
        assert await handle.query(Sends.told) is False
        await handle.signal(Sends.go)
        assert await failure(handle) == ("TenantMismatch", True)
        town.records[town.own] = TenantRecord(town.own)
        await replayed(town, handle)
        assert await handle.query(Sends.told) is True


async def test_lists_find_a_refusal_by_its_change_version(town):
    """The marker is the SDK's own for patches, which the server shows in an attribute."""
    async with town.worker():
        handle = await town.forger(town.late).start_workflow(
            Where.run, id=f"{town.late}:w", task_queue=town.queue
        )
        assert await failure(handle) == ("TenantSuspended", True)
    described = await town.raw.get_workflow_handle(handle.id).describe()
    [versions] = [
        pair.value
        for pair in described.typed_search_attributes
        if pair.key.name == "TemporalChangeVersion"
    ]
    assert versions == ["orkestra-refused-run:TenantSuspended"]
