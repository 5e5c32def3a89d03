"""`orkestra trace` as a shell runs it, on the real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError

from orkestra.devserver import DevServer
from orkestra.testing import LangfuseReceiver
from tests.support.backfill import worker
from tests.support.command import Command, one_line
from tests.support.names import Fresh
from tests.support.traced_worker import Traced
from tests.workflows import traced


class Desk:
    """A workflow that failed, and the command beside it."""

    def __init__(self, live: Traced, directory: Path, address: str) -> None:
        self.live = live
        self._command = Command(directory)
        self._variables = {
            "COLUMNS": "80",
            "TEMPORAL_ADDRESS": address,
            "LANGFUSE_BASE_URL": live.receiver.url,
            "LANGFUSE_PUBLIC_KEY": live.receiver.public_key,
            "LANGFUSE_SECRET_KEY": live.receiver.secret_key,
            "ORKESTRA_TENANT": live.acme,
        }

    async def run(self, *arguments: str, **variables: str) -> Any:
        given = {**self._variables, **variables}
        return await asyncio.to_thread(self._command.run, "trace", *arguments, **given)

    def write(self, name: str, text: str) -> None:
        self._command.write(name, text)


@pytest.fixture
async def desk(
    raw_client: Client, fresh: Fresh, tmp_path: Path, dev_server: DevServer
) -> AsyncIterator[Desk]:
    with LangfuseReceiver() as receiver:
        live = Traced(raw_client, fresh, receiver)
        yield Desk(live, tmp_path, dev_server.address)
        await live.close()


async def fail(live: Traced) -> None:
    """Run a workflow that fails with a message that is long and red."""
    text = "red \x1b[31m and long: " + "x" * 80
    async with worker(live):
        handle = await live.start(traced.Fail.run, "activity", text, id="order-1")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    await live.spans()


async def test_a_trace_is_shown_in_eighty_columns_or_as_json_with_the_ids_that_were_sent(desk):
    await fail(desk.live)
    shown, written = await asyncio.gather(
        desk.run("show", "order-1"), desk.run("show", "order-1", "--json")
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) == 80
    assert lines[0].startswith("trace ")
    assert lines[2].startswith(f"workflow:Fail  {desk.live.acme}:order-1")
    assert lines[-2].startswith("└─ activity:refuse   ")
    assert lines[-1].startswith(r"      ValueError: red \x1b[31m and long")
    assert lines[-1].endswith("…")

    [trace] = json.loads(one_line(written.stdout))["traces"]
    sent = {span.span_id: span for span in await desk.live.spans()}
    [child] = trace["root"]["children"]
    assert {trace["root"]["span_id"], child["span_id"]} == set(sent)
    assert {trace["trace_id"]} == {span.trace_id for span in sent.values()}
    assert (child["status"], child["level"]) == ("failed", "ERROR")


async def test_backfill_says_what_it_would_send_sends_it_once_and_nothing_without_an_answer(desk):
    await fail(desk.live)
    desk.live.receiver.clear()
    desk.write("masks.py", "def hide(*, data):\n    return 'hidden'\n")
    options = ("--older-than", "1ms", "--mask", "masks:hide")
    planned, failed = await asyncio.gather(
        desk.run("backfill", "order-1", *options, "--dry-run"),
        desk.run("backfill", "order-1", *options, LANGFUSE_SECRET_KEY="wrong"),
    )
    assert planned.returncode == 0
    assert [line.split()[-1] for line in planned.stdout.splitlines()[:2]] == [
        "workflow:Fail",
        "activity:refuse",
    ]
    assert planned.stdout.splitlines()[2] == "1 workflow: 2 spans to send, 0 already in Langfuse"
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "401" in one_line(failed.stderr)
    assert desk.live.receiver.spans == []

    sent = await desk.run("backfill", "--query", "WorkflowType = 'Fail'", *options, "--json")
    assert json.loads(one_line(sent.stdout))["sent"] == 2
    assert {span.input for span in desk.live.receiver.spans} == {"hidden"}
    again = await desk.run("backfill", "order-1", *options)
    assert again.stdout == "1 workflow: 0 spans sent, 2 already in Langfuse\n"
    assert len(desk.live.receiver.spans) == 2


async def test_bad_input_is_told_in_one_line(desk):
    cases = {
        ("backfill",): (2, "either WORKFLOW_ID or --query"),
        ("backfill", "--query", "nonsense ="): (2, "refused"),
        ("backfill", "a", "--mask", "no_such:mask"): (2, "--mask 'no_such:mask'"),
        ("show", "nothing"): (1, "has no workflow 'nothing'"),
    }
    answers = await asyncio.gather(*(desk.run(*arguments) for arguments in cases))
    for refused, (code, told) in zip(answers, cases.values(), strict=True):
        assert (refused.returncode, refused.stdout) == (code, "")
        assert told in one_line(refused.stderr)
