"""Refusals by the directory's answer replay, whatever the directory answers now."""

from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowQueryFailedError

from orkestra import OrkestraPlugin
from orkestra.directory import TenantRecord
from tests.support.replaying import replaying
from tests.support.tenants import PlacedTenants, failure
from tests.workflows.placed import WORKFLOWS, Sends, Where


@pytest.fixture
def placed(dev_server, raw_client, fresh) -> PlacedTenants:
    return PlacedTenants(dev_server.address, raw_client, fresh)


async def replayed(placed: PlacedTenants, handle: WorkflowHandle[Any, Any]) -> None:
    """Replay a history without asking the directory."""
    asked = placed.questions
    plugin = OrkestraPlugin(placed.config, directory=placed.directory)
    history = await placed.raw.get_workflow_handle(handle.id).fetch_history()
    with replaying(workflows=WORKFLOWS, plugins=[plugin]) as replayer:
        await replayer.replay_workflow(history)
    assert placed.questions == asked


@pytest.mark.parametrize(
    ("tenant", "kind"), [("late", "TenantSuspended"), ("stranger", "TenantUnknown")]
)
@pytest.mark.parametrize("cache", [1000, 0])
async def test_a_refused_run_replays_and_fails_its_queries(placed, tenant, kind, cache):
    tenant = placed.fresh.tenant(tenant)
    async with placed.worker(max_cached_workflows=cache):
        handle = await placed.forger(tenant).start_workflow(
            Sends.run,
            args=["activity", None, None, True],
            id=f"{tenant}:w",
            task_queue=placed.queue,
        )
        assert await failure(handle) == (kind, True)
        placed.records[tenant] = TenantRecord(tenant)
        await replayed(placed, handle)
        with pytest.raises(WorkflowQueryFailedError, match="refused when it ran"):
            await placed.client(tenant).get_workflow_handle("w").query(Sends.told)


@pytest.mark.parametrize("kind", ["activity", "child", "continue"])
@pytest.mark.parametrize("cache", [1000, 0])
async def test_a_refused_command_replays_after_its_queue_became_shared(placed, kind, cache):
    async with placed.worker(max_cached_workflows=cache):
        handle = await placed.client(placed.shared).start_workflow(
            Sends.run,
            args=[kind, placed.own_queue, None, True],
            id=placed.id(),
            task_queue=placed.queue,
        )
        assert await handle.query(Sends.told) is False
        await handle.signal(Sends.go)
        assert await failure(handle) == ("TenantMismatch", True)
        placed.records[placed.own] = TenantRecord(placed.own)
        await replayed(placed, handle)
        assert await handle.query(Sends.told) is True


async def test_lists_find_a_refusal_by_its_change_version(placed):
    """The marker is the SDK's own for patches, which the server shows in an attribute."""
    async with placed.worker():
        handle = await placed.forger(placed.late).start_workflow(
            Where.run, id=f"{placed.late}:w", task_queue=placed.queue
        )
        assert await failure(handle) == ("TenantSuspended", True)
    described = await placed.raw.get_workflow_handle(handle.id).describe()
    [versions] = [
        pair.value
        for pair in described.typed_search_attributes
        if pair.key.name == "TemporalChangeVersion"
    ]
    assert versions == ["orkestra-refused-run:TenantSuspended"]
