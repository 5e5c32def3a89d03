"""The commands against a real server, as processes that are signalled and whose codes count."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus

from orkestra import OrkestraPlugin
from orkestra.devserver import DevServer
from orkestra.devserver.server import free_port
from tests.support.command import Command, one_line
from tests.support.names import Fresh
from tests.support.processes import child_that
from tests.support.waiting import PATIENCE, until

GREETINGS = """
from datetime import timedelta
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from replies import reply

@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            reply, name, start_to_close_timeout=timedelta(seconds=30)
        )
"""
REPLIES = """
import asyncio
from pathlib import Path
from temporalio import activity

@activity.defn
async def reply(name: str) -> str:
    Path("replying").touch()
    await asyncio.sleep(1.0 if name == "slow" else 0)
    return f"Hello {name}"
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def acme(raw_client: Client, fresh: Fresh) -> Client:
    return Client(raw_client.service_client, plugins=[OrkestraPlugin(tenant=fresh.tenant())])


@contextmanager
def started(command: Command, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is killed, with all that it started, if the test does not end it."""
    with command.start(*arguments, **variables) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Signal a process; its exit code and what else it printed."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_serves_until_a_signal_and_exits_with_0(
    command: Command, number: signal.Signals
) -> None:
    with started(command, "server", "--port", "0", "--headless", "--json") as process:
        told = json.loads(read_line(process))
        health = command.run("health", "--json", TEMPORAL_ADDRESS=told["address"])
        code, output, errors = end(process, number)

    assert told["namespaces"] == ["default"]
    assert told["ui"] is None
    assert health.returncode == 0
    assert (code, output, errors) == (0, "", "")
    gone = command.run("health", "--timeout", "500ms", TEMPORAL_ADDRESS=told["address"])
    assert gone.returncode == 1


def test_the_server_prints_a_line_for_itself_and_one_for_its_ui(command: Command) -> None:
    port, ui_port = free_port(), free_port()
    ports = ("--port", str(port), "--ui-port", str(ui_port))
    with started(command, "server", *ports, TEMPORAL_NAMESPACE="staging") as process:
        server, ui = read_line(process), read_line(process)
        url = f"http://127.0.0.1:{ui_port}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as page:
            status = page.status
        health = command.run(
            "health", "--namespace", "staging", TEMPORAL_ADDRESS=server.split()[-1]
        )
        code, rest, _ = end(process, signal.SIGTERM)

    assert server == f"Temporal server: 127.0.0.1:{port}\n"
    assert ui == f"Temporal UI:     {url}\n"
    assert status == 200
    assert health.returncode == 0, health.stdout
    assert (code, rest) == (0, "")


def test_the_server_keeps_namespaces_and_attributes_in_its_file(command: Command) -> None:
    arguments = ("server", "--port", "0", "--headless", "--json", "--db", "temporal.db")
    for more in (["--namespace", "kept"], []):
        with started(command, *arguments, *more) as process:
            address = json.loads(read_line(process))["address"]
            health = command.run("health", "--namespace", "kept", TEMPORAL_ADDRESS=address)
            assert health.returncode == 0, health.stdout
            assert end(process, signal.SIGTERM)[0] == 0


def test_a_server_that_dies_by_itself_is_a_failure(command: Command) -> None:
    with started(command, "server", "--port", "0", "--headless") as process:
        read_line(process)
        child_that(lambda child: child.name() == "temporal", of=process.pid).kill()
        output, errors = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert output == ""
    assert "the embedded server exited" in one_line(errors)


def test_a_second_command_on_the_same_port_is_refused(
    command: Command, dev_server: DevServer
) -> None:
    port = dev_server.address.rpartition(":")[2]

    result = command.run("server", "--port", port)

    assert result.returncode == 2
    assert f"--port {port} cannot be used" in one_line(result.stderr)


def test_health_of_a_healthy_server_is_plain_text_and_0(
    command: Command, dev_server: DevServer
) -> None:
    result = command.run("health", TEMPORAL_ADDRESS=dev_server.address, TERM="xterm-256color")

    assert result.returncode == 0
    assert result.stderr == ""
    first, *checks = result.stdout.splitlines()
    assert first == f"healthy {dev_server.address}, namespace 'default'"
    assert [line.split()[:2] for line in checks] == [
        ["ok", "connection"],
        ["ok", "server"],
        ["ok", "namespace"],
        ["ok", "search_attribute"],
    ]
    assert "\x1b" not in result.stdout


def test_health_as_json_can_be_read_and_says_the_same(
    command: Command, dev_server: DevServer
) -> None:
    result = command.run("health", "--json", TEMPORAL_ADDRESS=dev_server.address)

    report = json.loads(one_line(result.stdout))
    assert result.returncode == 0
    assert report["healthy"] is True
    assert report["address"] == dev_server.address
    assert report["latency_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "variables", "problem"),
    [
        (["--namespace", "nowhere"], {}, "'nowhere' does not exist"),
        (["--task-queue", "nobody-polls-this"], {}, "no worker has polled 'nobody-polls-this'"),
        ([], {"ORKESTRA_TENANCY__SEARCH_ATTRIBUTE": "nobodyMadeIt"}, "'nobodyMadeIt' is missing"),
    ],
)
def test_health_of_an_unhealthy_namespace_says_why_and_is_1(
    command: Command,
    dev_server: DevServer,
    arguments: list[str],
    variables: dict[str, str],
    problem: str,
) -> None:
    variables = {**variables, "TEMPORAL_ADDRESS": dev_server.address}

    result = command.run("health", *arguments, **variables)

    assert result.returncode == 1
    assert result.stdout.startswith("unhealthy ")
    assert problem in result.stdout


def test_health_without_a_server_is_a_report_within_the_time_out(command: Command) -> None:
    address = f"127.0.0.1:{free_port()}"

    started_at = time.monotonic()
    result = command.run("health", "--json", "--timeout", "1s", TEMPORAL_ADDRESS=address)

    assert time.monotonic() - started_at < 25  # where it is not told, it tries for longer
    assert result.returncode == 1
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["reachable"] is False
    assert report["checks"][0]["name"] == "connection"


def test_health_escapes_what_a_terminal_would_obey(command: Command, dev_server: DevServer) -> None:
    name = "evil\x1b[2J"

    result = command.run("health", "--namespace", name, TEMPORAL_ADDRESS=dev_server.address)

    assert result.returncode == 1
    assert "\x1b" not in result.stdout
    assert r"evil\x1b[2J" in result.stdout


def test_ensuring_the_search_attribute_says_that_it_can_be_used(
    command: Command, dev_server: DevServer
) -> None:
    arguments = ("search-attributes", "ensure", "--namespace", "second", "--name", "ensuredByCli")

    result = command.run(*arguments, TEMPORAL_ADDRESS=dev_server.address)
    again = command.run(*arguments, "--json", TEMPORAL_ADDRESS=dev_server.address)

    assert result.returncode == 0
    assert one_line(result.stdout) == (
        "search attribute 'ensuredByCli' is ready in namespace 'second'"
    )
    assert again.returncode == 0
    assert json.loads(again.stdout) == {
        "namespace": "second",
        "name": "ensuredByCli",
        "type": "Keyword",
    }


async def test_a_search_attribute_of_another_type_is_refused(
    command: Command, dev_server: DevServer, raw_client: Client
) -> None:
    await raw_client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace="second",
            search_attributes={"numberForCli": IndexedValueType.INDEXED_VALUE_TYPE_INT},
        )
    )

    result = await asyncio.to_thread(
        command.run,
        *("search-attributes", "ensure", "--namespace", "second", "--name", "numberForCli"),
        TEMPORAL_ADDRESS=dev_server.address,
    )

    assert result.returncode == 2
    assert result.stdout == ""
    assert "'numberForCli' has type Int, and must be Keyword" in one_line(result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [("search-attributes", "ensure"), ("worker", "replies", "--task-queue", "queue")],
    ids=lambda arguments: arguments[0],
)
def test_a_namespace_that_does_not_exist_is_refused(
    command: Command, dev_server: DevServer, arguments: tuple[str, ...]
) -> None:
    command.write("replies.py", REPLIES)

    result = command.run(*arguments, "--namespace", "nowhere", TEMPORAL_ADDRESS=dev_server.address)

    assert result.returncode == 2
    assert result.stdout == ""
    assert "namespace 'nowhere' does not exist" in one_line(result.stderr)


async def test_a_workflow_that_the_sandbox_refuses_is_refused_in_one_line(
    command: Command, dev_server: DevServer
) -> None:
    impure = "import random\nNUMBER = random.random()\n" + GREETINGS
    command.write("greetings.py", impure)
    command.write("replies.py", REPLIES)

    result = await asyncio.to_thread(
        command.run,
        *("worker", "greetings", "--task-queue", "queue"),
        TEMPORAL_ADDRESS=dev_server.address,
    )

    assert result.returncode == 2
    assert "random" in one_line(result.stderr)
    assert result.stdout == ""


async def test_the_worker_runs_the_workflows_of_modules_and_drains_on_sigterm(
    command: Command, dev_server: DevServer, acme: Client, fresh: Fresh
) -> None:
    command.write("greetings.py", GREETINGS)
    command.write("replies.py", REPLIES)
    queue = fresh.task_queue()
    arguments = ("worker", "greetings", "replies", "--task-queue", queue)
    with started(command, *arguments, TEMPORAL_ADDRESS=dev_server.address) as process:
        greeting = await acme.execute_workflow(
            "Greeting", "Ada", id=fresh.workflow_id(), task_queue=queue, result_type=str
        )
        health = await asyncio.to_thread(
            command.run, "health", "--task-queue", queue, TEMPORAL_ADDRESS=dev_server.address
        )
        (command.directory / "replying").unlink()
        slow = await acme.start_workflow(
            "Greeting", "slow", id=fresh.workflow_id("slow"), task_queue=queue
        )
        await until((command.directory / "replying").exists)
        code, output, errors = await asyncio.to_thread(end, process, signal.SIGTERM)
    events = [event async for event in slow.fetch_history_events()]
    await slow.terminate()

    assert greeting == "Hello Ada"
    assert health.returncode == 0, health.stdout
    assert "1 worker polled" in health.stdout
    assert code == 0, errors
    assert output == ""
    assert f"Starting on task queue '{queue}' in namespace 'default'" in errors
    assert "Traceback" not in errors
    assert any(event.HasField("activity_task_completed_event_attributes") for event in events)


async def test_the_worker_refuses_work_without_a_tenant(
    command: Command, dev_server: DevServer, raw_client: Client, fresh: Fresh
) -> None:
    command.write("greetings.py", GREETINGS)
    command.write("replies.py", REPLIES)
    queue = fresh.task_queue()
    arguments = ("worker", "greetings", "replies", "--task-queue", queue)
    with started(command, *arguments, TEMPORAL_ADDRESS=dev_server.address) as process:
        handle = await raw_client.start_workflow(
            "Greeting", "Eve", id=fresh.workflow_id(), task_queue=queue
        )
        with contextlib.suppress(Exception):
            await handle.result()
        description = await handle.describe()
        code, _, errors = await asyncio.to_thread(end, process, signal.SIGINT)

    assert description.status is WorkflowExecutionStatus.FAILED
    assert code == 0, errors
