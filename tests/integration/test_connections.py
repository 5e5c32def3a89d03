"""Connections on the real server: what they carry, and that `close()` closes."""

import asyncio
import gc
import logging
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client, Plugin, WorkflowFailureError, WorkflowHandle
from temporalio.service import ConnectConfig, RPCError, ServiceClient
from temporalio.worker import Worker

from orkestra.config import TemporalSettings
from orkestra.devserver import DevServer
from orkestra.errors import ConnectionClosedError, WorkersRunningError
from orkestra.temporal.connection import Connection, open_connection
from tests.support.fake_service import FakeServiceClient
from tests.support.names import Fresh
from tests.support.sockets import Sockets
from tests.support.waiting import PATIENCE, PATIENTLY, until


@activity.defn
async def say_hello(name: str) -> str:
    return f"hello {name}"


@pytest.fixture
def sockets(dev_server: DevServer) -> Sockets:
    return Sockets(dev_server.address)


@pytest.fixture
async def connection(dev_server: DevServer, sockets: Sockets) -> AsyncIterator[Connection]:
    opened = await open_connection(TemporalSettings(address=dev_server.address))
    yield opened
    await opened.close()


@pytest.fixture
def client(connection: Connection) -> Client:
    return Client(connection.service_client)


async def unserved(client: Client, fresh: Fresh) -> WorkflowHandle[Any, Any]:
    """A workflow that no worker ever takes up."""
    return await client.start_workflow(
        "nobody", id=fresh.workflow_id(), task_queue=fresh.task_queue("unserved")
    )


async def in_flight(call: Any) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.2)
    assert not task.done()
    return task


# Use


async def test_clients_of_two_namespaces_share_one_socket(connection, sockets):
    clients = [Client(connection.service_client, namespace=n) for n in ("default", "second")]
    assert [await client.count_workflows("WorkflowId = 'x'") for client in clients]
    assert sockets.count == 1


async def test_a_worker_runs_on_a_connection_and_the_socket_goes_after_it(
    connection, client, fresh, sockets
):
    worker = Worker(client, task_queue=fresh.task_queue(), activities=[say_hello])
    async with worker:
        assert (
            await client.execute_activity(
                say_hello,
                "you",
                id=fresh.workflow_id(),
                task_queue=fresh.task_queue(),
                start_to_close_timeout=PATIENTLY,
            )
            == "hello you"
        )
    await connection.close()
    assert await sockets.are_gone()


async def test_identity_metadata_and_deadlines_come_from_the_settings(dev_server):
    settings = TemporalSettings(
        address=dev_server.address,
        identity="the-desk",
        grpc_meta={"x-app": "desk"},
        call_retry_deadline=timedelta(seconds=3),
    )
    connection = await open_connection(settings)
    config = connection.service_client.config
    assert Client(connection.service_client).identity == "the-desk"
    assert config.rpc_metadata == {"x-app": "desk"}
    assert config.retry_config is not None
    assert config.retry_config.max_elapsed_time_millis == 3000
    assert config.keep_alive_config is not None
    await connection.close()


# Closing


async def test_the_socket_is_gone_while_handles_are_held_and_a_call_waits(
    connection, client, fresh, sockets
):
    handle = await unserved(client, fresh)
    service, view = client.workflow_service, client.service_client.worker_service_client
    waiting = await in_flight(handle.result())
    raw = await in_flight(poll(service, fresh))
    assert sockets.count == 1
    await connection.close()
    assert waiting.done()
    assert raw.done()
    assert await sockets.are_gone()
    for task in (waiting, raw):
        with pytest.raises(ConnectionClosedError) as caught:
            await task
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert connection.is_closed
    assert handle.id == fresh.workflow_id()
    assert view is not None


def poll(service: Any, fresh: Fresh) -> Any:
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest

    queue = TaskQueue(name=fresh.task_queue("polled"))
    return service.poll_activity_task_queue(
        PollActivityTaskQueueRequest(namespace="default", task_queue=queue, identity="x")
    )


async def test_every_later_call_is_refused_at_once(connection, client, fresh, dev_server):
    handle = await unserved(client, fresh)
    view = client.service_client.worker_service_client
    await connection.close()
    calls = (
        handle.describe,
        handle.result,
        client.service_client.check_health,
        view.check_health,
        lambda: client.workflow_service.get_system_info(GetSystemInfoRequest()),
        lambda: view.workflow_service.get_system_info(GetSystemInfoRequest()),
        lambda: client.count_workflows(""),
    )
    for call in calls:
        async with asyncio.timeout(5):  # less than a call is retried for
            with pytest.raises(ConnectionClosedError, match=dev_server.address):
                await call()
    for setting in ("rpc_metadata", "api_key"):
        with pytest.raises(ConnectionClosedError):
            setattr(client, setting, {})


async def test_a_worker_cannot_be_made_after_closing(connection, client, raw_client, fresh):
    elsewhere = Worker(raw_client, task_queue=fresh.task_queue(), activities=[say_hello])
    view = client.service_client.worker_service_client
    await connection.close()
    for closed in (client, Client(view)):
        with pytest.raises(ConnectionClosedError):
            Worker(closed, task_queue=fresh.task_queue(), activities=[say_hello])
        with pytest.raises(ConnectionClosedError):
            elsewhere.client = closed
    async with elsewhere:
        pass


async def test_errors_of_failed_calls_do_not_keep_the_socket(connection, client, sockets):
    kept: list[BaseException] = []
    for _ in range(2):
        with pytest.raises(RPCError, match="not found") as caught:
            await client.get_workflow_handle("absent").describe()
        kept.append(caught.value)
    cancelled = await in_flight(unending(client))
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await connection.close()
    gc.collect()
    assert await sockets.are_gone()
    assert len(kept) == 2
    assert cancelled.cancelled()


async def unending(client: Client) -> None:
    await client.get_workflow_handle(
        (await client.start_workflow("nobody", id="unending", task_queue="unserved")).id
    ).result()


async def test_a_caller_who_is_cancelled_stays_cancelled(connection, client, fresh):
    handle = await unserved(client, fresh)
    waiting = await in_flight(handle.result())
    waiting.cancel()
    await connection.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_time_out_around_a_call_still_works_while_the_connection_closes(
    connection, client, fresh
):
    handle = await unserved(client, fresh)

    async def impatient() -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                await handle.result()
        except ConnectionClosedError:
            await asyncio.sleep(0)  # the task itself is not cancelled
            current = asyncio.current_task()
            assert current is not None
            return f"closed, cancelled {current.cancelling()} times"
        return "result"

    waiting = await in_flight(impatient())
    await connection.close()
    assert await waiting == "closed, cancelled 0 times"


async def test_closing_twice_and_at_the_same_time_is_closing_once(
    connection, client, fresh, sockets
):
    waiting = await in_flight((await unserved(client, fresh)).result())
    await asyncio.gather(*(connection.close() for _ in range(10)))
    await connection.close()
    with pytest.raises(ConnectionClosedError):
        await waiting
    assert await sockets.are_gone()


async def test_a_hundred_calls_in_flight_all_end(connection, client, fresh, sockets):
    handle = await unserved(client, fresh)
    waiting = [asyncio.create_task(handle.result()) for _ in range(100)]
    await asyncio.sleep(0.3)
    async with asyncio.timeout(PATIENCE):
        await connection.close()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(end) for end in ends} == {ConnectionClosedError}
    assert await sockets.are_gone()


async def test_closing_while_workers_run_names_them_and_changes_nothing(connection, client, fresh):
    with connection.working("task queue 'a'"), connection.working("task queue 'b'"):
        with pytest.raises(WorkersRunningError, match=r"task queue 'a', task queue 'b'"):
            await connection.close()
        assert not connection.is_closed
        assert await client.service_client.check_health()
    await connection.close()
    with pytest.raises(ConnectionClosedError), connection.working("too late"):
        pass


async def test_the_socket_goes_with_the_last_client(dev_server, sockets):
    connection = await open_connection(TemporalSettings(address=dev_server.address))
    client = Client(connection.service_client)
    del connection
    gc.collect()
    assert await client.service_client.check_health()
    assert sockets.count == 1
    del client
    gc.collect()
    assert await sockets.are_gone()


async def test_connections_that_were_never_used_close_as_well(dev_server, sockets):
    for number in range(20):
        connection = await open_connection(TemporalSettings(address=dev_server.address))
        core = connection.service_client.worker_service_client._bridge_client
        assert core is not None
        references = sys.getrefcount(core._ref)
        assert references == 2  # the core's own threads have none
        del core
        if number % 2:
            await connection.close()
        del connection
        await asyncio.sleep(0)
        gc.collect()
        assert await sockets.are_gone()  # without another call of this process


async def test_closing_leaves_no_warning_task_or_thread(dev_server, fresh, caplog):
    caplog.set_level(logging.DEBUG, logger="asyncio")
    settings = TemporalSettings(address=dev_server.address)
    await (await open_connection(settings)).close()  # the runtime's threads start here
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        connection = await open_connection(settings)
        handle = await unserved(Client(connection.service_client), fresh)
        waiting = await in_flight(handle.result())
        await connection.close()
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), ConnectionClosedError)
        del waiting, handle, connection
        gc.collect()
        await until(lambda: asyncio.all_tasks() <= tasks)
        await until(lambda: set(threading.enumerate()) <= threads)
    assert not caught
    assert not [record for record in caplog.records if record.name == "asyncio"]


# Seams


class Recorder(FakeServiceClient):
    """Another service client around the SDK's, as a plugin may put there."""

    def __init__(self, inner: ServiceClient) -> None:
        super().__init__(inner, {})
        self.changes: list[object] = []

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        self.changes.append(metadata)
        super().update_rpc_metadata(metadata)

    def update_api_key(self, api_key: str | None) -> None:
        self.changes.append(api_key)
        super().update_api_key(api_key)


class RecordingPlugin(Plugin):
    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def configure_client(self, config: Any) -> Any:
        return config

    async def connect_service_client(self, config: ConnectConfig, next: Any) -> ServiceClient:
        config.identity = "renamed by a plugin"
        self.made.append(Recorder(await next(config)))
        return self.made[-1]


async def test_a_plugin_that_wraps_the_connection_is_honoured_and_does_not_keep_it(
    dev_server, sockets
):
    plugin = RecordingPlugin()
    settings = TemporalSettings(address=dev_server.address)
    connection = await open_connection(settings, plugins=[plugin])
    client = Client(connection.service_client)
    client.rpc_metadata = {"x-app": "desk"}
    client.api_key = "another"
    assert client.identity == "renamed by a plugin"
    assert client.api_key == "another"
    await client.count_workflows("")
    assert plugin.made[0].changes == [{"x-app": "desk"}, "another"]
    assert plugin.made[0].calls == ["count_workflow_executions"]
    await connection.close()
    assert await sockets.are_gone()


async def test_the_wire_sees_every_call_however_it_is_made(dev_server, fresh):
    plugin = RecordingPlugin()
    settings = TemporalSettings(address=dev_server.address)
    connection = await open_connection(settings, plugins=[plugin])
    client = Client(connection.service_client)
    handle = await unserved(client, fresh)
    await client.workflow_service.get_system_info(GetSystemInfoRequest())
    await client.service_client.worker_service_client.check_health()
    waiting = await in_flight(handle.result())
    await handle.terminate()
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), WorkflowFailureError)
    assert plugin.made[0].calls == [
        "start_workflow_execution",
        "get_system_info",
        "check",
        "get_workflow_execution_history",
        "terminate_workflow_execution",
    ]
    await connection.close()
