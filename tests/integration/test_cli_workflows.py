"""The commands for workflows and tenants, as a shell runs them, on the real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec
from temporalio.exceptions import ApplicationError

from orkestra import OrkestraConfig, TemporalConnectionManager, TemporalSettings, create_worker
from orkestra.devserver import DevServer
from tests.support.command import Command
from tests.support.names import Fresh
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(240)  # each command is a process of its own


@workflow.defn
class Basket:
    def __init__(self) -> None:
        self._items: list[str] = []
        self._paid = False

    @workflow.run
    async def run(self, first: str) -> list[str]:
        if first == "stolen":
            raise ApplicationError("this is stolen", type="Stolen", non_retryable=True)
        self._items.append(first)
        await workflow.wait_condition(lambda: self._paid)
        return self._items

    @workflow.signal
    def pay(self) -> None:
        self._paid = True

    @workflow.query
    def items(self) -> list[str]:
        return self._items

    @workflow.update
    async def add(self, item: str) -> int:
        self._items.append(item)
        return len(self._items)

    @add.validator
    def _only_goods(self, item: str) -> None:
        if not item:
            raise ApplicationError("nothing to add", type="Nothing")


class Shell:
    """Runs commands for a tenant, without holding up the worker beside."""

    def __init__(self, directory: Path, server: DevServer, fresh: Fresh) -> None:
        self.command = Command(directory)
        self.server = server
        self.queue = fresh.task_queue()
        self.tenant = fresh.tenant()

    async def __call__(self, *arguments: str, tenant: str | None = None) -> tuple[int, str, str]:
        variables = {
            "TEMPORAL_ADDRESS": self.server.address,
            "ORKESTRA_TENANT": tenant or self.tenant,
        }
        done = await asyncio.to_thread(self.command.run, *arguments, **variables)
        return done.returncode, done.stdout, done.stderr

    async def json(self, *arguments: str) -> dict[str, Any]:
        code, output, error = await self(*arguments, "--json")
        assert code == 0, error
        told: dict[str, Any] = json.loads(output)
        return told


@pytest.fixture
async def shell(dev_server: DevServer, fresh: Fresh, tmp_path: Path) -> AsyncIterator[Shell]:
    shell = Shell(tmp_path, dev_server, fresh)
    config = OrkestraConfig(temporal=TemporalSettings(address=dev_server.address))
    async with TemporalConnectionManager(config) as manager:
        worker = await create_worker(task_queue=shell.queue, workflows=[Basket], manager=manager)
        async with worker:
            yield shell


async def test_a_workflow_is_started_talked_to_looked_at_and_ended(shell: Shell):
    started = await shell.json(
        "start", "Basket", "--task-queue", shell.queue, "--id", "b", "--input", '"pen"'
    )
    assert started["workflow_id"] == f"{shell.tenant}:b"
    assert (await shell.json("query", "b", "items"))["answer"] == ["pen"]
    assert (await shell("update", "b", "add", "-i", '"ink"'))[:2] == (0, "2\n")
    running = await shell.json("show", "b")
    assert (running["status"], running["run_id"]) == ("running", started["run_id"])
    assert "result" not in running
    assert (await shell("signal", "b", "pay"))[0] == 0
    assert (await shell.json("show", "b"))["result"] == ["pen", "ink"]


async def test_waiting_prints_the_result_or_why_there_is_none(shell: Shell):
    start = ("start", "Basket", "--task-queue", shell.queue, "--wait", "--input")
    code, printed, _ = await shell(*start, '"stolen"')
    assert code == 1
    assert "failed: Stolen: this is stolen" in printed
    waiting = asyncio.ensure_future(shell(*start, '"pen"', "--id", "b"))

    async def pays() -> bool:
        return (await shell("signal", "b", "pay"))[0] == 0

    await until(pays)
    assert (await waiting)[:2] == (0, '["pen"]\n')


async def test_what_a_handler_refuses_is_told_in_a_line(shell: Shell):
    await shell.json("start", "Basket", "--task-queue", shell.queue, "--id", "b", "-i", '"pen"')
    for arguments, why in [
        (("update", "b", "add", "-i", '""'), "Nothing: nothing to add"),
        (("query", "b", "weather"), "'weather' expected but not found"),
        (("start", "Basket", "--task-queue", shell.queue, "--id", "b"), "is already running"),
    ]:
        code, printed, error = await shell(*arguments)
        assert (code, printed) == (1, ""), arguments
        assert why in error
        assert error.count("\n") == 1
    await shell("terminate", "b")


async def test_another_tenant_sees_and_reaches_nothing(
    shell: Shell, fresh: Fresh, raw_client: Client
):
    await shell.json("start", "Basket", "--task-queue", shell.queue, "--id", "b", "-i", '"pen"')
    other = fresh.tenant("globex")
    code, _, error = await shell("cancel", f"{shell.tenant}:b", tenant=other)
    assert code == 1
    assert "not found, or already closed" in error
    assert json.loads((await shell("list", "--json", tenant=other))[1]) == {"workflows": []}
    query = f"WorkflowId = '{shell.tenant}:b'"

    async def is_listed() -> bool:
        return (await raw_client.count_workflows(query)).count > 0

    await until(is_listed)
    assert [w["workflow_id"] for w in (await shell.json("list"))["workflows"]] == [
        f"{shell.tenant}:b"
    ]
    everyone = await shell.json("list", "--all-tenants", "--query", query)
    assert len(everyone["workflows"]) == 1
    assert (await shell("terminate", "b", "--reason", "enough"))[0] == 0
    assert (await shell.json("show", "b"))["failure"].startswith("TerminatedError: enough")


async def test_a_command_without_a_tenant_sends_nothing(tmp_path: Path):
    done = Command(tmp_path).run("show", "b", TEMPORAL_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2
    assert "use --tenant ID, or set ORKESTRA_TENANT" in done.stderr


@pytest.mark.parametrize("text", ["nojson", "@missing.json"])
def test_input_that_is_no_json_is_refused_before_anything_is_sent(tmp_path: Path, text: str):
    done = Command(tmp_path).run(
        "start", "Basket", "--task-queue", "q", "--tenant", "acme", "--input", text
    )
    assert done.returncode == 2
    assert repr(text) in done.stderr or "cannot be read" in done.stderr


def with_tenants(directory: Path) -> Command:
    (directory / "orkestra.toml").write_text(
        '[tenants.acme]\nstatus = "suspended"\n[tenants.globex]\nnamespace = "second"\n'
        'task_queues = {orders = "globex-orders"}\nfairness_weight = 3\n'
    )
    return Command(directory)


def test_tenants_are_listed_with_their_placement(tmp_path: Path):
    done = with_tenants(tmp_path).run("tenants", "list", "--json")
    acme, globex = json.loads(done.stdout)["tenants"]
    assert (acme["tenant"], acme["status"], acme["namespace"]) == ("acme", "suspended", "default")
    assert globex["task_queues"] == {"orders": "globex-orders"}


def test_a_tenant_that_the_configuration_does_not_know_is_refused(tmp_path: Path):
    done = with_tenants(tmp_path).run("tenants", "show", "initech")
    assert done.returncode == 2
    assert "the configuration has acme, globex" in done.stderr


async def test_suspending_pauses_schedules_and_resuming_goes_on_with_them(
    shell: Shell, raw_client: Client
):
    (shell.command.directory / "orkestra.toml").write_text(f"[tenants.{shell.tenant}]\n")
    config = OrkestraConfig(temporal=TemporalSettings(address=shell.server.address))
    async with TemporalConnectionManager(config) as manager:
        client = await manager.get_client(tenant=shell.tenant)
        schedule = await client.create_schedule("nightly", nightly(shell.queue))
        paused = await until(lambda: suspended(shell))
        assert paused == {"tenant": shell.tenant, "schedules": 1, "status": "active"}
        assert (await schedule.describe()).schedule.state.paused
        code, printed, _ = await shell("tenants", "resume", shell.tenant)
        assert (code, printed) == (0, f"{shell.tenant}: 1 schedules unpaused\n")
        assert not (await schedule.describe()).schedule.state.paused
        await schedule.delete()
    counted = await shell.json("tenants", "show", shell.tenant)
    assert counted["workflows"] == {}


def nightly(queue: str) -> Schedule:
    action = ScheduleActionStartWorkflow("Basket", "pen", id="nightly-run", task_queue=queue)
    return Schedule(action=action, spec=ScheduleSpec(cron_expressions=["0 3 * * *"]))


async def suspended(shell: Shell) -> dict[str, Any] | None:
    """Suspend, and return the result once a schedule is found: their list lags behind."""
    told = await shell.json("tenants", "suspend", shell.tenant)
    return told if told["schedules"] else None


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("orkestra te", ["terminate", "tenants"]),
        ("orkestra start --t", ["--task-queue", "--tenant"]),
        ("orkestra tenants s", ["show", "suspend"]),
    ],
)
def test_the_shell_completes_commands_and_options(tmp_path: Path, typed: str, offered: list[str]):
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = Command(tmp_path).run(_ORKESTRA_COMPLETE="complete_bash", **asked)
    assert done.stdout.split() == offered
