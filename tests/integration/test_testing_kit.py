"""The testing kit as an application uses it, and what it catches."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowHistory

from orkestra import current_tenant, start_workflow
from orkestra.devserver import DevServer
from orkestra.errors import InvalidTenantError
from orkestra.testing import (
    Histories,
    OrkestraEnvironment,
    TenantActivityEnvironment,
    assert_isolated,
    assert_replays,
)
from tests.support.command import clean_environment
from tests.support.waiting import until

MEMORY: list[str] = []


@activity.defn
def whose() -> str:
    return str(current_tenant())


@activity.defn
async def whose_async() -> str:
    return str(current_tenant())


@activity.defn
async def remember() -> list[str]:
    """Keep the tenant's name, and tell all names once there is another tenant's."""
    MEMORY.append(str(current_tenant()))
    await until(lambda: len(set(MEMORY)) > 1)
    return list(MEMORY)


@workflow.defn
class Whose:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(timedelta(milliseconds=10))
        return await workflow.execute_activity(whose, start_to_close_timeout=timedelta(seconds=60))


@workflow.defn
class Patient:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(timedelta(days=30))
        return await workflow.execute_activity(
            whose_async, start_to_close_timeout=timedelta(seconds=60)
        )


@workflow.defn
class Gossip:
    """Its activity keeps what it learned of one tenant and tells it to the next."""

    @workflow.run
    async def run(self) -> list[str]:
        return await workflow.execute_activity(
            remember, start_to_close_timeout=timedelta(seconds=60)
        )


@workflow.defn(name="Whose")
class Changed:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(whose, start_to_close_timeout=timedelta(seconds=60))


@pytest.fixture
def orkestra_server(dev_server: DevServer) -> str:
    """The server of this run, in place of one more."""
    return dev_server.address


async def test_an_isolated_workflow_passes(environment: OrkestraEnvironment):
    async with environment.worker(Whose, activities=[whose]) as queue:
        results = await assert_isolated(environment, Whose.run, task_queue=queue)
    assert all(result == tenant for tenant, result in results.items())
    assert len(results) == 2


async def test_an_activity_that_leaks_another_tenant_fails(
    environment: OrkestraEnvironment,
):
    MEMORY.clear()
    async with environment.worker(Gossip, activities=[remember]) as queue:
        with pytest.raises(AssertionError, match="ID of another tenant"):
            await assert_isolated(environment, Gossip.run, task_queue=queue)


async def test_days_pass_at_once_on_a_server_that_skips_time(
    time_skipping: OrkestraEnvironment, tenant: str
):
    client = await time_skipping.client(tenant)
    async with time_skipping.worker(Patient, activities=[whose_async]) as queue:
        handle = await start_workflow(client, Patient.run, task_queue=queue)
        assert await handle.result() == tenant
        trace = await time_skipping.trace_of(handle)
    assert trace.is_one_tree().tenant == tenant
    assert trace.roots[0].received.duration > timedelta(days=29)


async def test_isolation_is_not_tested_while_time_is_skipped(time_skipping: OrkestraEnvironment):
    with pytest.raises(ValueError, match="time is skipped"):
        await assert_isolated(time_skipping, Whose.run, task_queue="any")


async def test_waiting_for_an_incomplete_trace_times_out(
    environment: OrkestraEnvironment, tenant: str
):
    client = await environment.client(tenant)
    handle = await start_workflow(client, "Nobody", task_queue="nobody-runs-this")
    with pytest.raises(TimeoutError):
        await environment.trace_of(handle, timeout=timedelta(milliseconds=200))
    await handle.terminate()


async def recorded(environment: OrkestraEnvironment, tenant: str, directory: Path):
    client = await environment.client(tenant)
    async with environment.worker(Whose, activities=[whose]) as queue:
        handle = await start_workflow(client, Whose.run, task_queue=queue)
        assert await handle.result() == tenant
    await Histories(directory, mode="record").replays("whose", handle, Whose)
    return handle


async def test_a_recorded_history_catches_changed_code(
    environment: OrkestraEnvironment, tenant: str, tmp_path: Path
):
    handle = await recorded(environment, tenant, tmp_path)
    file = tmp_path / "whose.json"
    assert json.loads(file.read_text())["workflowId"] == handle.id
    await Histories(tmp_path).replays("whose", handle, Whose)
    await assert_replays(Whose, histories=tmp_path)
    with pytest.raises(AssertionError, match="does not replay"):
        await assert_replays(Changed, histories=file)
    with pytest.raises(AssertionError, match="does not replay"):
        await Histories(tmp_path).replays("whose", handle, Changed)


async def test_a_recorded_history_stays_until_it_is_updated(
    environment: OrkestraEnvironment, tenant: str, tmp_path: Path
):
    await recorded(environment, tenant, tmp_path)
    before = (tmp_path / "whose.json").read_text()
    later = await recorded(environment, tenant, tmp_path)
    assert (tmp_path / "whose.json").read_text() == before
    await Histories(tmp_path, mode="update").replays("whose", later, Whose)
    assert (tmp_path / "whose.json").read_text() != before


async def test_a_missing_history_fails_with_the_command_that_records_it(
    environment: OrkestraEnvironment, tenant: str, tmp_path: Path
):
    client = await environment.client(tenant)
    handle = client.get_workflow_handle("never")
    with pytest.raises(AssertionError, match="--orkestra-histories=record"):
        await Histories(tmp_path).replays("whose", handle, Whose)
    with pytest.raises(AssertionError, match="no history is in"):
        await assert_replays(Whose, histories=tmp_path)
    none: list[WorkflowHistory] = []
    with pytest.raises(AssertionError, match="no history"):
        await assert_replays(Whose, histories=none)


async def test_an_activity_that_is_called_directly_has_a_tenant():
    environment = TenantActivityEnvironment("acme")
    assert environment.run(whose) == "acme"
    assert await environment.run(whose_async) == "acme"
    assert current_tenant() is None
    with pytest.raises(InvalidTenantError):
        TenantActivityEnvironment("Not a tenant")


USE = """
from pathlib import Path
from orkestra.testing import OrkestraEnvironment, Histories

async def test_it(environment: OrkestraEnvironment, tenant, tenant_client, histories: Histories):
    assert tenant_client.namespace == "default"
    assert (await tenant_client.count_workflows()).count == 0
"""


def test_pytest_finds_the_fixtures_by_itself(tmp_path: Path, dev_server: DevServer):
    (tmp_path / "test_use.py").write_text(USE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--orkestra-server", dev_server.address],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
