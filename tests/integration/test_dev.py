"""`orkestra dev` as somebody uses it who writes workflows: edits, mistakes, mends, Ctrl-C."""

import asyncio
import json
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from temporalio.client import Client, WorkflowHandle

from orkestra.temporal.plugin import OrkestraPlugin
from tests.support.command import Command, one_line
from tests.support.waiting import PATIENCE, until

ANY_PORT: Final = ("--port", "0", "--ui-port", "0", "--traces-port", "0")
CODE: Final = """
from datetime import timedelta

from temporalio import activity, workflow

TASK_QUEUE = "shopping"
SOON = timedelta(seconds=30)


@activity.defn
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.is_paid = False

    @workflow.run
    async def run(self, name: str) -> list[str]:
        first = await workflow.execute_activity(greet, name, start_to_close_timeout=SOON)
        await workflow.wait_condition(lambda: self.is_paid)
        return [first, await workflow.execute_activity(greet, name, start_to_close_timeout=SOON)]

    @workflow.signal
    def pay(self) -> None:
        self.is_paid = True
"""
MAIN: Final = """
from shop import workflows

from orkestra import create_worker


async def make_worker():
    return await create_worker(
        task_queue="made", workflows=[workflows.Order], activities=[workflows.greet]
    )
"""

WAITING: Final = """
    import asyncio
    from pathlib import Path
    Path("first").touch()
    while not Path("first.done").exists():
        await asyncio.sleep(0.05)
    return f"""

pytestmark = pytest.mark.timeout(240)


class Session:
    """A running `orkestra dev`, and what it has said so far."""

    def __init__(self, command: Command, *arguments: str, **variables: str) -> None:
        self.directory = command.directory
        self.process = command.start("dev", *arguments, *ANY_PORT, **variables)
        self.said: list[str] = []
        self._seen = 0
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    async def hears(self, pattern: str) -> str:
        """Wait for a line, after those that were waited for before, and return what it names."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for number, line in enumerate(self.said[self._seen :], self._seen + 1):
                if found := re.search(pattern, line):
                    self._seen = number
                    return found[found.lastindex or 0]
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"{pattern!r} was not said in\n" + "\n".join(self.said))
            await asyncio.sleep(0.05)

    def save(self, code: str, file: str = "shop/workflows.py") -> None:
        (self.directory / file).write_text(code)

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self.said.append(line.rstrip())


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/workflows.py").write_text(CODE)
    (tmp_path / "shop/main.py").write_text(MAIN)
    return Command(tmp_path)


@asynccontextmanager
async def developing(
    command: Command, *arguments: str, **variables: str
) -> AsyncIterator[tuple[Session, Client]]:
    """Run it, and connect as a tenant once it says where the server is."""
    session = Session(command, *arguments, **variables)
    try:
        address = await session.hears(r"Temporal (127\.0\.0\.1:\d+) ")
        yield session, await Client.connect(address, plugins=[OrkestraPlugin(tenant="acme")])
    finally:
        if session.process.poll() is None:
            await session.end(signal.SIGTERM)
        session.process.kill()
        await asyncio.to_thread(session.process.wait)


async def order(client: Client, number: str, queue: str = "shopping") -> WorkflowHandle[Any, Any]:
    """Start an order and wait until it waits for its payment."""
    handle = await client.start_workflow("Order", "ada", id=number, task_queue=queue)

    async def has_greeted() -> bool:
        events = (await handle.fetch_history()).events
        return any(e.HasField("activity_task_completed_event_attributes") for e in events)

    await until(has_greeted)
    return handle


async def at_work(file: Path) -> None:
    """Wait until an activity has begun."""
    await until(file.exists)


async def paid(handle: WorkflowHandle[Any, Any]) -> Any:
    await handle.signal("pay")
    return await asyncio.wait_for(handle.result(), PATIENCE)


async def traces_of(session: Session, path: str = "api/traces") -> Any:
    url = next(found[1] for line in session.said if (found := re.search(r"traces (http\S+)", line)))
    with await asyncio.to_thread(
        urllib.request.urlopen, f"{url}/{path}", timeout=PATIENCE
    ) as answer:
        return json.load(answer)


async def test_edits_take_effect_while_workflows_run_and_a_broken_one_waits_for_the_next_save(
    command: Command,
) -> None:
    async with developing(command, "shop") as (session, client):
        await session.hears(r"running 1 workflow, 1 activity on task queue 'shopping'")
        handle = await order(client, "1")

        session.save(CODE.replace("hello", "goodbye"))
        await session.hears(r"shop/workflows\.py changed: reloading")
        await session.hears(r"1 open execution replayed")
        await session.hears(r"running 1 workflow")
        assert await paid(handle) == ["hello ada", "goodbye ada"]

        handle = await order(client, "2")
        session.save(f"{CODE}\nraise ValueError('what was I thinking')\n")
        await session.hears(r"Traceback")
        await session.hears(r"shop/workflows\.py\", line \d+, in <module>")
        await session.hears(r"ValueError: what was I thinking")
        await session.hears(r"worker stopped: save a file to try again")
        session.save(f"{CODE}\ndef oops(:\n")
        await session.hears(r"SyntaxError")
        session.save(CODE.replace("hello", "fixed"))
        await session.hears(r"running 1 workflow")
        assert await paid(handle) == ["goodbye ada", "fixed ada"]
        assert not any("orkestra.cli" in line for line in session.said)

        (command.directory / "shop/more").mkdir()
        await session.hears(r"shop/more changed")
        await session.hears(r"running 1 workflow")
        session.save("", "shop/more/__init__.py")
        session.save(
            CODE.replace("Order", "Refund").replace("greet", "wave"), "shop/more/refunds.py"
        )
        await session.hears(r"running 2 workflows, 2 activities")
        assert await session.end() == 0


async def test_a_non_deterministic_edit_is_held_back_and_told_with_workflow_and_event(
    command: Command,
) -> None:
    async with developing(command, "shop.main:make_worker") as (session, client):
        await session.hears(r"running 1 workflow, 1 activity on task queue 'made'")
        handle = await order(client, "1", "made")

        session.save(CODE.replace("execute_activity(greet, name", "execute_activity('other', name"))
        await session.hears(r"NON-DETERMINISTIC CHANGE: 1 open execution cannot continue")
        await session.hears(r"Order 'acme:1' at event 5 \(ActivityTaskScheduled\): .*'other'")
        await session.hears(r"worker paused until you fix this")
        await session.hears(r"orkestra terminate acme:1 --all-tenants")
        await handle.signal("pay")
        await asyncio.sleep(1)
        assert "TASK_FAILED" not in (await handle.fetch_history()).to_json()
        session.save(CODE)
        await session.hears(r"changed: reloading")
        reported = "\n".join(session.said).partition("NON-DETERMINISTIC")[2]
        assert "orkestra running " not in reported.partition("changed: reloading")[0]
        await session.hears(r"running 1 workflow")
        assert await asyncio.wait_for(handle.result(), PATIENCE) == ["hello ada"] * 2

        ended = await order(client, "2", "made")
        session.save(
            CODE.replace(
                "        first = await", "        await workflow.sleep(1)\n        first = await"
            )
        )
        await session.hears(r"Order 'acme:2' at event 5")
        await ended.terminate()
        await session.hears(r"running 1 workflow")
        assert await session.end() == 0


async def test_what_was_begun_goes_on_in_the_next_run_unless_it_is_to_be_fresh(
    command: Command,
) -> None:
    async with developing(command, "shop") as (session, client):
        await session.hears(r"running")
        handle = await order(client, "1")
        again = command.run("dev", "shop", *ANY_PORT)
        assert again.returncode == 2
        assert "is in use by another `orkestra dev`" in one_line(again.stderr)
        started = psutil.Process(session.process.pid).children(recursive=True)
        assert await session.end() == 0
        _, left = psutil.wait_procs(started, timeout=PATIENCE)
        assert left == []
    assert (command.directory / ".orkestra/.gitignore").read_text().endswith("*\n")

    async with developing(command, "shop", LANGFUSE_HOST="http://127.0.0.1:1") as (session, client):
        await session.hears(r"1 open execution replayed")
        await session.hears(r"running")
        handle = client.get_workflow_handle(handle.id)
        assert await paid(handle) == ["hello ada", "hello ada"]

        async def complete_traces() -> Any:
            traces = (await traces_of(session))["traces"]
            # The workflow, two activities and a signal come one after the other.
            return [each for each in traces if each["has_root"] and each["spans"] == 4]

        [trace] = await until(complete_traces)
        assert (trace["name"], trace["tenant"]) == ("workflow:Order", "acme")
        started = psutil.Process(session.process.pid).children(recursive=True)
        assert await session.end(signal.SIGKILL) == -signal.SIGKILL
        _, left = psutil.wait_procs(started, timeout=PATIENCE)
        assert left == []

    async with developing(command, "shop", "--fresh") as (session, client):
        await session.hears(r"running")
        assert (await client.count_workflows("WorkflowType = 'Order'")).count == 0
        assert (await traces_of(session))["traces"] == []


async def test_activities_get_a_moment_to_finish_and_a_second_ctrl_c_does_not_wait(
    command: Command,
) -> None:
    slow = CODE.replace("    return f", WAITING)
    command.write("shop/workflows.py", slow)
    async with developing(command, "shop", "--grace", "40s") as (session, client):
        await session.hears(r"running")
        handle = await client.start_workflow("Order", "ada", id="1", task_queue="shopping")
        await at_work(command.directory / "first")
        session.save(slow.replace("first", "second"))
        await session.hears(r"waiting for the worker to finish")
        (command.directory / "first.done").touch()
        await session.hears(r"running")
        await handle.signal("pay")
        await at_work(command.directory / "second")
        history = (await handle.fetch_history()).to_json()
        assert history.count("EVENT_TYPE_ACTIVITY_TASK_COMPLETED") == 1
        assert "ACTIVITY_TASK_FAILED" not in history
        session.process.send_signal(signal.SIGINT)
        await session.hears(r"Ctrl-C again")
        await session.hears(r"waiting for the worker to finish")
        assert await session.end() == 130


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing_of_this_name"], "module 'nothing_of_this_name' does not exist"),
        (["shop", "--config", "no.toml"], "configuration file 'no.toml' does not exist"),
        (["shop", "--port", "7000", "--ui-port", "7000"], "use different ports"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    command: Command, arguments: list[str], complaint: str
) -> None:
    result = command.run("dev", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert complaint in one_line(result.stderr)
    assert not (command.directory / ".orkestra").exists()


@pytest.mark.parametrize("option", ["--port", "--traces-port"])
def test_a_port_that_is_taken_is_one_line(command: Command, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = command.run("dev", "shop", *ANY_PORT, option, port)
    assert result.returncode == 2
    line = one_line(result.stderr)
    assert f"{option} {port} cannot be used: address already in use" in line
