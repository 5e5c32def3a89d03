"""`orkestra demo` as a newcomer runs it: its findings, what it starts, and that all of it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from temporalio.client import Client

from orkestra.testing import LangfuseReceiver
from tests.support.command import Command
from tests.support.waiting import PATIENCE, becomes

TICKETS: Final = Path(__file__).parents[2] / "examples/support_desk/tickets.jsonl"
SECONDS: Final = 3 * PATIENCE
"""Time limit of a whole demo, in seconds."""
MANY: Final = 2000 if os.environ.get("ORKESTRA_SOAK") else 120

pytestmark = pytest.mark.timeout(SECONDS + PATIENCE)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@contextmanager
def running(command: Command, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with command.start("demo", *arguments, **variables) as process:
        try:
            yield process
        finally:
            process.kill()


def findings(command: Command, *arguments: str, **variables: str) -> Any:
    """Run the demo to its end and return what it found."""
    with running(command, "--json", *arguments, **variables) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


def ticket(tenant: str, number: int, **values: Any) -> str:
    text = {"subject": "Invoice", "body": "Where do I download a copy of it?"}
    whose = {"tenant": tenant, "id": str(number), "customer": "dana@fabrikam.example"}
    return json.dumps({**whose, **text, **values}) + "\n"


def few_tickets() -> str:
    return (
        ticket("acme", 1)
        + ticket("initech", 1, channel="chat", subject="Stapler", body="I want it back.")
        + ticket("initech", 2, customer="nobody@nowhere.invalid")
        + ticket("umbrella", 1, subject="Zombies", body="Help!", answer_within_seconds=0.5)
    )


def names(tree: Any) -> set[str]:
    return {tree["name"]}.union(*map(names, tree["children"]))


def test_every_ticket_ends_three_calls_are_refused_and_a_trace_is_one_tree(
    command: Command,
) -> None:
    found = findings(command)
    assert found["ok"]
    assert found["problems"] == []
    assert found["langfuse"] is None
    assert set(found["tenants"]) == {"acme", "globex", "initech"}
    for tally in (*found["tenants"].values(), found["total"]):
        ended = tally["completed"] + tally["escalated"] + tally["failed"]
        assert ended == tally["started"]
        assert 0 < tally["p50_seconds"] <= tally["p95_seconds"]
        assert tally["resolutions"]["answered_by_assistant"] > 0
        assert tally["escalated"] > 0
    assert found["total"]["started"] == len(TICKETS.read_text().splitlines())
    invalid = TICKETS.read_text().count(".invalid")
    assert found["total"]["failures"] == {"UnknownCustomer": invalid}

    without, foreign, forged = found["refusals"]
    assert all(each["refused"] for each in found["refusals"])
    assert without["error"].startswith("TenantRequiredError: ")
    assert "globex:acme:ticket-open" in foreign["error"]
    assert "Dropped signal 'close': it comes from another tenant" in forged["error"]

    [root] = found["trace"]["roots"]
    assert root["name"] == "workflow:SupportTicket"
    assert {"activity:lookup_customer", "update:answer"} <= names(root)
    [drafting] = [each for each in root["children"] if each["name"] == "activity:draft_answer"]
    assert [each["type"] for each in drafting["children"]] == ["generation"]
    [notifying] = [each for each in root["children"] if each["name"] == "workflow:NotifyCustomer"]
    assert [each["name"] for each in notifying["children"]] == ["activity:send_message"]
    lookups = [each for each in root["children"] if each["name"] == "activity:lookup_customer"]
    assert [each["level"] for each in lookups] == ["ERROR", "DEFAULT"]
    assert "connection reset" in lookups[0]["message"]


def test_traces_go_to_langfuse_where_it_is_configured_and_other_settings_do_not_reach_the_demo(
    command: Command,
) -> None:
    tickets = command.write("tickets.jsonl", few_tickets())
    with LangfuseReceiver() as langfuse:
        found = findings(
            command,
            "--tickets",
            str(tickets),
            LANGFUSE_PUBLIC_KEY=langfuse.public_key,
            LANGFUSE_SECRET_KEY=langfuse.secret_key,
            LANGFUSE_BASE_URL=langfuse.url,
            LANGFUSE_TRACING_ENVIRONMENT="trial",
            ORKESTRA_TENANCY__MODE="off",
            TEMPORAL_ADDRESS="127.0.0.1:1",
            TEMPORAL_NAMESPACE="nowhere",
        )
        traces = langfuse.traces()
    assert found["langfuse"] == langfuse.url
    assert found["trace"] is None
    assert found["total"]["started"] == 4
    assert found["tenants"]["acme"]["resolutions"] == {"answered_by_assistant": 1}
    assert found["tenants"]["initech"]["resolutions"] == {"answered_by_human": 1}
    assert found["tenants"]["initech"]["failures"] == {"UnknownCustomer": 1}
    assert found["tenants"]["umbrella"]["resolutions"] == {"escalated": 1}

    assert len(traces) == 5
    roots = [root for [root] in traces.values()]
    spans = [root.span for root in roots]
    assert {span.name for span in spans} == {"workflow:SupportTicket"}
    tenants = sorted(tag for span in spans for tag in span.tags if tag.startswith("tenant:"))
    expected = ["acme", "acme", "initech", "initech", "umbrella"]
    assert tenants == [f"tenant:{tenant}" for tenant in expected]
    assert all("fabrikam" in str(s.user_id) or ".invalid" in str(s.user_id) for s in spans)
    drafts = [tree.span for root in roots for tree in root.find("draft")]
    assert len(drafts) == 4
    for draft in drafts:
        assert draft.type == "generation"
        assert draft.attributes["langfuse.observation.model.name"] == "keyword-match-1"
        usage = json.loads(draft.attributes["langfuse.observation.usage_details"])
        assert usage["input"] > 0
        assert usage["output"] > 0
        assert draft.input["customer"]["email"].endswith("@fabrikam.example")
        assert 0 < draft.output["confidence"] < 1
        assert draft.attributes["langfuse.environment"] == "trial"


async def test_with_keep_everything_stays_up_until_ctrl_c(command: Command) -> None:
    tickets = command.write("tickets.jsonl", few_tickets())
    with running(command, "--tickets", str(tickets), "--keep", "--json") as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        client = await Client.connect(found["temporal"]["address"])

        async def tickets_listed() -> int:
            return (await client.count_workflows("WorkflowType = 'SupportTicket'")).count

        await becomes(tickets_listed, 5)
        _, port = found["temporal"]["ui"].removeprefix("http://").split(":")
        with socket.create_connection(("127.0.0.1", int(port))):
            pass
        [root] = found["trace"]["roots"]
        assert root["name"] == "workflow:SupportTicket"
        page = f"{found['traces']}/api/traces"
        with await asyncio.to_thread(urllib.request.urlopen, page, timeout=PATIENCE) as answer:
            tenants = json.load(answer)["tenants"]
        assert [each["id"] for each in tenants] == ["acme", "initech", "umbrella"]
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 4  # a server, a worker and their guards
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        _, left = psutil.wait_procs(started, timeout=PATIENCE)
        assert left == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_whatever_ends_the_demo_ends_all_that_it_started(
    command: Command, number: signal.Signals, code: int
) -> None:
    tickets = command.write("tickets.jsonl", ticket("acme", 1, answer_within_seconds=600, body="?"))
    with running(command, "--tickets", str(tickets)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "orkestra worker" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 4
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, err
        assert "Traceback" not in err
        _, left = psutil.wait_procs(started, timeout=PATIENCE)
        assert left == []


def test_a_malformed_line_is_named_before_anything_is_started(command: Command) -> None:
    tickets = command.write("tickets.jsonl", ticket("acme", 1) + "{oops\n")
    result = command.run("demo", "--tickets", str(tickets))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"orkestra: {tickets}, line 2: Invalid JSON: key must be a string at column 2"
    ]


@pytest.mark.timeout(SECONDS * MANY / 120 + PATIENCE)
def test_twice_as_many_tickets_are_worked_off(command: Command) -> None:
    ours = [json.loads(line) for line in TICKETS.read_text().splitlines()]
    lines = (json.dumps({**ours[number % len(ours)], "id": str(number)}) for number in range(MANY))
    tickets = command.write("tickets.jsonl", "\n".join(lines))
    with running(command, "--json", "--tickets", str(tickets)) as process:
        out, err = process.communicate(timeout=SECONDS * MANY / 120)
    assert process.returncode == 0, err
    found = json.loads(out)
    total = found["total"]
    assert total["started"] == MANY
    assert total["completed"] + total["escalated"] + total["failed"] == MANY
