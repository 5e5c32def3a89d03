"""Making workers: what they find, what they tell the server, what they refuse."""

import sys
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from orkestra import (
    ConfigurationError,
    DiscoveryError,
    OrkestraConfig,
    TemporalConnectionManager,
    TemporalSettings,
    WorkerSettings,
    create_worker,
    start_workflow,
)
from tests.workflows.everything import ACTIVITIES, WORKFLOWS, Everything


@pytest.fixture
def config(dev_server) -> OrkestraConfig:
    return OrkestraConfig(
        temporal=TemporalSettings(address=dev_server.address, identity="tests-worker"),
        worker=WorkerSettings(max_concurrent_activities=7, max_cached_workflows=3),
    )


@pytest.fixture
async def manager(config):
    async with TemporalConnectionManager(config) as opened:
        yield opened


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules into a package that can be imported, and forgets them again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(modules: dict[str, str]) -> None:
        for name, text in modules.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def pollers(client: Client, queue: str, kind: TaskQueueType.ValueType) -> list[str]:
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace="default", task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
    )
    return [poller.identity for poller in answer.pollers]


async def test_every_definition_of_a_module_is_found_and_served(manager, raw_client, fresh):
    worker = await create_worker(
        task_queue=fresh.task_queue(), workflows_path="tests.workflows.everything", manager=manager
    )
    configured = worker.config()
    assert set(configured["workflows"]) == set(WORKFLOWS)
    assert set(configured["activities"]) == set(ACTIVITIES)
    assert configured["max_concurrent_activities"] == 7
    assert configured["max_cached_workflows"] == 3
    assert configured["graceful_shutdown_timeout"] == timedelta(seconds=30)
    async with worker:
        client = await manager.get_client(tenant=fresh.tenant())
        handle = await start_workflow(client, Everything.run, 1, None, task_queue=worker.task_queue)
        seen = await handle.result()
        assert set(seen.tenants.values()) == {fresh.tenant()}
        for kind in (
            TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        ):
            assert await pollers(raw_client, worker.task_queue, kind) == ["tests-worker"]


async def test_a_package_is_searched_to_its_last_module(manager, fresh, package):
    package(
        {
            "shop/__init__": "",
            "shop/orders/__init__": "",
            "shop/__main__": "raise SystemExit('ran')",
            "shop/orders/flows": """
from temporalio import workflow
@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None: ...
""",
            "shop/acts": """
from temporalio import activity
from shop.orders.flows import Order
@activity.defn(name="charge-card")
async def charge() -> None: ...
""",
        }
    )
    worker = await create_worker(
        task_queue=fresh.task_queue(), workflows_path="shop", manager=manager
    )
    assert [found.__name__ for found in worker.config()["workflows"]] == ["Order"]
    assert [found.__name__ for found in worker.config()["activities"]] == ["charge"]
    async with worker:
        pass


@pytest.mark.parametrize(
    ("modules", "path", "complaint"),
    [
        ({}, "nowhere.at.all", "module 'nowhere.at.all' does not exist"),
        ({"empty_app": "x = 1"}, "empty_app", "defines no workflow and no activity"),
        ({"needy": "import not_installed_xyz"}, "needy", "'not_installed_xyz' is not installed"),
        ({"broken": "1 / 0"}, "broken", "ZeroDivisionError: division by zero"),
        ({"exits": "raise SystemExit(3)"}, "exits", "SystemExit: 3"),
    ],
)
async def test_a_module_that_cannot_be_used_is_refused_before_connecting(
    package, modules, path, complaint
):
    package(modules)
    nowhere = OrkestraConfig(temporal=TemporalSettings(address="127.0.0.1:1"))
    with pytest.raises(DiscoveryError, match=complaint):
        await create_worker(nowhere, task_queue="q", workflows_path=path)


async def test_two_workflows_or_activities_of_one_name_are_refused(manager, package):
    definitions = """
from temporalio import activity, workflow
@workflow.defn(name="Same")
class {0}:
    @workflow.run
    async def run(self) -> None: ...
@activity.defn(name="same")
async def {1}() -> None: ...
"""
    package(
        {
            "twins_one": definitions.format("One", "one"),
            "twins_two": definitions.format("Two", "two"),
        }
    )
    import twins_one
    import twins_two

    with pytest.raises(DiscoveryError, match=r"two workflows are named 'Same'.*One.*Two"):
        await create_worker(
            task_queue="q", workflows=[twins_one.One], workflows_path="twins_two", manager=manager
        )
    with pytest.raises(DiscoveryError, match="two activities are named 'same'"):
        await create_worker(
            task_queue="q", activities=[twins_one.one, twins_two.two], manager=manager
        )
    with pytest.raises(DiscoveryError, match=r"decorate it with @activity\.defn"):
        await create_worker(task_queue="q", activities=[print], manager=manager)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"task_queue": ""}, "task_queue '' is empty"),
        ({"task_queue": "q"}, "nothing to do"),
    ],
)
async def test_a_worker_without_queue_or_work_is_refused(manager, options, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        await create_worker(manager=manager, **options)


async def test_installed_packages_pass_through_and_the_apps_own_state_is_isolated(
    manager, fresh, package
):
    package(
        {
            "isolated/__init__": "",
            "isolated/state": "count = 0",
            "isolated/flows": """
import httpx, pydantic
from temporalio import workflow
from isolated import state
@workflow.defn
class Counts:
    @workflow.run
    async def run(self) -> int:
        state.count += 1
        return state.count
""",
        }
    )
    worker = await create_worker(
        task_queue=fresh.task_queue(), workflows_path="isolated", manager=manager
    )
    async with worker:
        client = await manager.get_client(tenant=fresh.tenant())
        for _ in range(3):
            handle = await start_workflow(client, "Counts", task_queue=worker.task_queue)
            assert await handle.result() == 1


async def test_workflow_code_that_the_sandbox_refuses_is_explained(manager, fresh, package):
    package(
        {
            "careless/__init__": "",
            "careless/clock": "import random\nSEED = random.random()",
            "careless/flows": """
from careless import clock
from temporalio import workflow
@workflow.defn
class Careless:
    @workflow.run
    async def run(self) -> None: ...
""",
        }
    )
    with pytest.raises(DiscoveryError) as caught:
        await create_worker(
            task_queue=fresh.task_queue(), workflows_path="careless", manager=manager
        )
    message = str(caught.value)
    assert "Careless" in message
    assert "careless.flows -> careless.clock" in message
    assert "random" in message
    assert "worker.sandbox.passthrough" in message
    assert "\n" not in message


async def test_a_second_worker_of_a_queue_on_one_connection_is_refused_with_a_way_out(
    manager, fresh
):
    queue = fresh.task_queue()
    first = await create_worker(task_queue=queue, workflows=WORKFLOWS, manager=manager)
    with pytest.raises(ConfigurationError, match=queue):
        await create_worker(task_queue=queue, workflows=WORKFLOWS, manager=manager)
    async with first:
        pass


async def test_a_worker_of_its_own_takes_its_connection_with_it(config, fresh):
    worker = await create_worker(config, task_queue=fresh.task_queue(), workflows=WORKFLOWS)
    async with worker:
        assert worker.client.service_client.connection.is_private
    await worker.client.service_client.connection.close()
