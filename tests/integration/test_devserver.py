"""The embedded server as it really runs: its services, and every way it ends."""

import asyncio
import gc
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import Priority
from temporalio.service import RPCError
from temporalio.worker import Worker

from orkestra.devserver import BINARY_VARIABLE, DevServer, find_temporal_binary
from orkestra.devserver.server import free_port
from orkestra.errors import DevServerError
from tests.support.names import Fresh
from tests.support.processes import has_ended
from tests.support.waiting import PATIENCE, until

AT_ONCE = timedelta()

OWNER = """
import asyncio, os, sys, time
from orkestra.devserver import DevServer

async def main():
    async with DevServer(log_level="error") as server:
        child = os.fork() if sys.argv[1] == "forked" else -1
        if child:
            print(server.pid, child, flush=True)
        time.sleep(120)

asyncio.run(main())
"""

ECHOING = """
import asyncio
from orkestra.devserver import DevServer

async def main():
    async with DevServer(log_level="info", echo={echo}):
        pass

asyncio.run(main())
"""


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return f"Hello, {name}"


def processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


async def greet(address: str, namespace: str, fresh: Fresh) -> str:
    client = await Client.connect(address, namespace=namespace)
    queue = fresh.task_queue()
    async with Worker(client, task_queue=queue, workflows=[Greeting]):
        return await client.execute_workflow(
            Greeting.run, namespace, id=fresh.workflow_id(), task_queue=queue
        )


@asynccontextmanager
async def owner(kind: str) -> AsyncIterator[tuple[psutil.Process, list[psutil.Process]]]:
    """A program with a server: the program, and what has to end with it (the server is first)."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, kind, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    server, forked = map(int, (await program.stdout.readline()).split())
    reaper = psutil.Process(server).parent()
    assert reaper is not None
    try:
        yield psutil.Process(program.pid), [psutil.Process(server), reaper]
    finally:
        if forked > 0:
            psutil.Process(forked).kill()
        if program.returncode is None:
            program.kill()
        await program.communicate()


@pytest.fixture(autouse=True)
async def no_process_is_left(dev_server: DevServer) -> AsyncIterator[None]:
    before = processes()
    yield
    await until(lambda: processes() <= before)


@pytest.mark.parametrize("namespace", ["default", "second"])
async def test_a_workflow_completes_in_every_namespace(
    namespace: str, dev_server: DevServer, fresh: Fresh
) -> None:
    assert await greet(dev_server.address, namespace, fresh) == f"Hello, {namespace}"


@pytest.mark.parametrize("namespace", ["default", "second"])
async def test_every_namespace_has_the_tenant_search_attribute(
    namespace: str, dev_server: DevServer
) -> None:
    client = await Client.connect(dev_server.address, namespace=namespace)
    attributes = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=namespace)
    )
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    assert dict(attributes.custom_attributes)["tenantId"] == keyword


@pytest.mark.parametrize("fairness", [True, False])
async def test_a_small_tenant_waits_for_the_backlog_of_a_big_one_only_without_fairness(
    fairness: bool, fresh: Fresh
) -> None:
    served: list[str] = []

    @activity.defn
    async def serve(tenant: str) -> None:
        served.append(tenant)

    # With the server's four partitions, of which one may be served last, up to 87 of 105.
    config: dict[str, int | str] = {
        "matching.numTaskqueueReadPartitions": 1,
        "matching.numTaskqueueWritePartitions": 1,
        # How old the backlog may be that the server reports.
        "matching.TaskQueueInfoByBuildIdTTL": "50ms",
    }
    async with DevServer(fairness=fairness, dynamic_config=config, stop_grace=AT_ONCE) as s:
        client = await Client.connect(s.address)
        queue = fresh.task_queue()
        handles = [
            await client.start_activity(
                serve,
                tenant,
                id=f"{tenant}-{number}",
                task_queue=queue,
                start_to_close_timeout=timedelta(seconds=30),
                priority=Priority(fairness_key=tenant),
            )
            for tenant, tasks in (("big", 40), ("small", 4))
            for number in range(tasks)
        ]
        await until_backlog(client, queue, 44)
        async with Worker(
            client, task_queue=queue, activities=[serve], max_concurrent_activities=4
        ):
            await asyncio.gather(*(handle.result() for handle in handles))
    last_of_small = max(place for place, tenant in enumerate(served, 1) if tenant == "small")
    # Eight runs of each: 7 to 9 of 44 with fairness, 43 or 44 without.
    assert (last_of_small < 20) == fairness
    assert (last_of_small > 35) == (not fairness)


async def until_backlog(client: Client, queue: str, tasks: int) -> None:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        report_stats=True,
    )

    async def all_wait() -> bool:
        described = await client.workflow_service.describe_task_queue(request)
        return described.stats.approximate_backlog_count >= tasks

    await until(all_wait)


async def test_the_ui_answers_and_everything_listens_on_this_machine_only() -> None:
    async with DevServer(ui=True, stop_grace=AT_ONCE) as server:
        assert server.ui_url is not None
        page = await asyncio.to_thread(fetch, server.ui_url)
        assert "<html" in page
        assert server.pid is not None
        listening = {
            connection.laddr
            for connection in psutil.Process(server.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert {host for host, _ in listening} == {"127.0.0.1"}
        assert server.address in {f"{host}:{port}" for host, port in listening}


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:  # noqa: S310 - our own server
        return str(response.read().decode())


async def test_headless_is_the_default(dev_server: DevServer) -> None:
    assert dev_server.ui_url is None


async def test_dynamic_configuration_reaches_the_server(fresh: Fresh) -> None:
    async with DevServer(dynamic_config={"limit.maxIDLength": 40}, stop_grace=AT_ONCE) as server:
        client = await Client.connect(server.address)
        with pytest.raises(RPCError, match="exceeds maximum allowed length"):
            await client.start_workflow(
                "Any", id=fresh.workflow_id("x" * 40), task_queue=fresh.task_queue()
            )


async def test_several_servers_start_at_once_and_share_nothing(fresh: Fresh) -> None:
    servers = [DevServer(ui=number == 0, stop_grace=AT_ONCE) for number in range(3)]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        assert len({server.address for server in servers}) == 3
        clients = [await Client.connect(server.address) for server in servers]
        await clients[0].start_workflow(
            "Any", id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        await clients[0].get_workflow_handle(fresh.workflow_id()).describe()
        for client in clients[1:]:
            with pytest.raises(RPCError, match="not found"):
                await client.get_workflow_handle(fresh.workflow_id()).describe()
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def test_of_two_servers_on_one_port_one_runs_and_the_other_raises() -> None:
    port = free_port()
    servers = [DevServer(port=port, stop_grace=AT_ONCE) for _ in range(2)]
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    try:
        assert [server.is_running for server in servers].count(True) == 1
        (error,) = (outcome for outcome in outcomes if outcome is not None)
        assert isinstance(error, DevServerError)
        assert f"port {port} cannot be used on 127.0.0.1: address already in use" in str(error)
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def test_a_port_taken_after_it_was_chosen_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried, script = find_temporal_binary(), tmp_path / "tried", tmp_path / "temporal"
    script.write_text(
        f"#!/bin/sh\necho $* >> {tried}\n"
        f"[ $(wc -l < {tried}) -gt 1 ] || {{ echo 'address already in use' >&2; exit 1; }}\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(script))
    async with DevServer(stop_grace=AT_ONCE) as server:
        first, second = tried.read_text().splitlines()
        port = server.address.rpartition(":")[2]
        assert f"--port={port} " in second
        assert f"--port={port} " not in first


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_database_file_keeps_its_workflows(end: str, tmp_path: Path, fresh: Fresh) -> None:
    server = DevServer(db_filename=tmp_path / "temporal.db", namespaces=["second"])
    await server.start()
    try:
        address, pid = server.address, server.pid
        client = await Client.connect(address, namespace="second")
        handle = await client.start_workflow(
            Greeting.run, "again", id=fresh.workflow_id(), task_queue=fresh.task_queue()
        )
        await (server.stop() if end == "stop" else server.kill())
        assert server.pid is None
        await server.start()
        assert server.address == address
        assert server.pid != pid
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        async with Worker(client, task_queue=fresh.task_queue(), workflows=[Greeting]):
            assert await handle.result() == "Hello, again"
    finally:
        await server.stop()


async def test_a_database_file_gets_the_namespaces_and_attributes_that_it_lacks(
    tmp_path: Path, fresh: Fresh
) -> None:
    file = tmp_path / "temporal.db"
    async with DevServer(db_filename=file, search_attribute="other", stop_grace=AT_ONCE):
        pass
    later = DevServer(db_filename=file, namespaces=["second"], stop_grace=AT_ONCE)
    async with later as server:
        for namespace in server.namespaces:
            client = await Client.connect(server.address, namespace=namespace)
            assert (await client.count_workflows("tenantId = 'x'")).count == 0
        assert await greet(server.address, "second", fresh) == "Hello, second"


async def test_a_database_file_with_a_search_attribute_of_another_type_is_an_error(
    tmp_path: Path,
) -> None:
    file = tmp_path / "temporal.db"
    async with DevServer(db_filename=file, search_attribute="other") as server:
        client = await Client.connect(server.address)
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace="default",
                search_attributes={"tenantId": IndexedValueType.INDEXED_VALUE_TYPE_TEXT},
            )
        )
    with pytest.raises(DevServerError, match=r"has type Text, .* another database file"):
        await DevServer(db_filename=file, stop_grace=AT_ONCE).start()


async def test_a_server_that_was_killed_can_be_started_again() -> None:
    async with DevServer(stop_grace=AT_ONCE) as server:
        address = server.address
        assert server.pid is not None
        psutil.Process(server.pid).kill()
        await until(lambda: not server.is_running)
        await server.start()
        assert server.address == address


async def test_starting_a_running_server_is_an_error_and_stopping_twice_is_not() -> None:
    async with DevServer() as server:
        with pytest.raises(DevServerError, match=f"runs already on {server.address}"):
            await server.start()
        await asyncio.gather(server.stop(), server.stop())
        await server.stop()
        await server.kill()
        assert not server.is_running
        assert server.pid is None


async def test_an_exception_in_the_block_ends_the_server() -> None:
    server = DevServer(stop_grace=AT_ONCE)
    with pytest.raises(ZeroDivisionError):
        async with server:
            _ = 1 / 0
    assert not server.is_running


async def test_a_cancelled_stop_still_ends_the_server() -> None:
    server = DevServer()
    await server.start()
    stopping = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert not server.is_running


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.1, 0.25, 0.4])
async def test_a_cancelled_start_leaves_no_process(delay: float) -> None:
    before = processes()
    server = DevServer(ui=True)
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait([starting], timeout=delay)
    if not starting.cancel():  # on a fast machine the longest delays are too long
        await server.stop()
        return
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes() <= before
    assert not server.is_running


async def test_a_timeout_around_the_start_leaves_no_process() -> None:
    before = processes()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), DevServer():
            pytest.fail("started within a tenth of a second")
    assert processes() <= before


@pytest.mark.parametrize("kind", ["alone", "forked"])
async def test_killing_the_program_ends_its_server(kind: str) -> None:
    async with owner(kind) as (program, others):
        program.kill()
        await until(lambda: all(map(has_ended, others)))


@pytest.mark.skipif(sys.platform != "linux", reason="the system cannot tell a child of it")
async def test_killing_the_reaper_ends_the_server() -> None:
    async with owner("alone") as (_, (server, reaper)):
        reaper.kill()
        await until(lambda: has_ended(server))


async def test_descriptors_threads_and_processes_are_released() -> None:
    this = psutil.Process()
    async with DevServer(stop_grace=AT_ONCE):
        pass
    gc.collect()
    descriptors, threads = this.num_fds(), this.num_threads()
    for _ in range(2):
        async with DevServer(ui=True, stop_grace=AT_ONCE):
            pass
    gc.collect()
    # The SDK closes the sockets of the start by and by.
    await until(lambda: this.num_fds() <= descriptors)
    await until(lambda: this.num_threads() <= threads)


@pytest.mark.parametrize("echo", [False, True])
async def test_the_log_is_printed_only_with_echo(echo: bool) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", ECHOING.format(echo=echo)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await program.communicate()
    assert program.returncode == 0
    assert output == b""
    assert (b"level=INFO" in errors) == echo
    assert echo or errors == b""


async def test_only_the_end_of_a_long_output_is_kept() -> None:
    async with DevServer(log_level="debug", stop_grace=AT_ONCE) as server:
        assert server.output == ""
    assert 10_000 < len(server.output.encode()) <= 33 * 1024


async def test_nothing_is_read_from_or_left_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "absent.toml"))
    async with DevServer(stop_grace=AT_ONCE):
        pass
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - names alone
