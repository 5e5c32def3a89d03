"""What the log says of the work that it comes from."""

import asyncio
import io
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow

from orkestra import OrkestraConfig, TemporalSettings, configure_logging, tenant_scope
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


async def log_of(address: str, queue: str, style: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "tests/programs/talk.py", address, queue, style),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=PIPE,
        stderr=PIPE,
    )
    _, log = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, log.decode()
    return log.decode()


async def test_each_line_of_workflow_and_activity_code_has_its_context_and_is_logged_once(
    dev_server, fresh
):
    queue = fresh.task_queue()
    text = await log_of(dev_server.address, queue, "auto")
    lines = [json.loads(line) for line in text.splitlines()]
    said: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["logger"].startswith(("app.", "temporalio.workflow", "temporalio.activity")):
            said.setdefault(line["message"].partition(":")[0], []).append(line)
    assert set(said) == {
        "workflow began, plain logger",
        "workflow began, SDK's logger",
        "workflow goes on",
        "workflow ends",
        "signal, plain logger",
        "async activity, plain logger",
        "async activity, SDK's logger",
        "activity in a thread",
        "it failed",
    }
    assert {message: len(found) for message, found in said.items()} == dict.fromkeys(said, 1)
    runs = set()
    for [line] in said.values():
        assert line["tenant"] == "acme"
        assert line["workflow_id"] == f"acme:{queue}"
        assert line["workflow_type"] == "Talkative"
        assert line["task_queue"] == queue
        assert line["namespace"] == "default"
        assert line["attempt"] == 1
        runs.add(line["run_id"])
    assert len(runs) == 1
    assert "activity_type" not in said["workflow ends"][0]
    [in_thread], [failed] = said["activity in a thread"], said["it failed"]
    assert in_thread["activity_type"] == "talks_in_a_thread"
    assert in_thread["extra"] == {"order": 42, "rate": 0.5, "tenant": "forged"}
    assert "ValueError" in failed["exception"]
    assert "sk-secret" not in text
    assert "\\u001b" in text
    assert text.isascii()


async def test_on_a_terminal_the_same_is_text_without_control_characters(dev_server, fresh):
    queue = fresh.task_queue()
    text = await log_of(dev_server.address, queue, "text")
    [line] = [each for each in text.splitlines() if "activity in a thread" in each]
    assert line.startswith(line[:8] + " WARNING app.talkative: activity in a thread order=42")
    assert f"tenant=acme namespace=default task_queue={queue}" in line
    assert "sk-secret" not in text
    assert "async activity, plain logger: ***\\r\\n\\x1b tenant=acme" in text
    # What an exception brings along cannot pass for a line of the log.
    assert not any(each.startswith(("line", "forged")) for each in text.splitlines())
    assert "\x1b" not in text


@pytest.fixture
def own_logging():
    """The process's logging as it was, afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], level = before
    root.setLevel(level)
    workflow.logger.workflow_info_on_message = True
    activity.logger.activity_info_on_message = True


def test_outside_of_any_work_a_line_has_no_context_but_the_tenant(own_logging):
    configure_logging(stream=own_logging, style="json")
    logging.getLogger("app").info("alone")
    with tenant_scope("acme"):
        logging.getLogger("app").info("scoped")
    alone, scoped = map(json.loads, own_logging.getvalue().splitlines())
    assert set(alone) == {"time", "level", "logger", "message"}
    assert scoped["tenant"] == "acme"


def test_configuring_again_replaces_and_does_not_double(own_logging):
    configure_logging(stream=own_logging, style="json")
    configure_logging(stream=own_logging, style="text", level=logging.WARNING)
    logging.getLogger("app").info("unheard")
    logging.getLogger("app").warning("heard once")
    assert own_logging.getvalue().count("heard once") == 1
    assert "unheard" not in own_logging.getvalue()


def test_secrets_of_every_section_are_hidden_and_bad_values_lose_no_line(own_logging):
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    temporal = TemporalSettings(api_key="key-of-temporal", grpc_meta={"x-token": "metadata-token"})
    configure_logging(stream=own_logging, style="json", config=OrkestraConfig(temporal=temporal))
    values = {"a": "key-of-temporal", "b": ["metadata-token"], "c": Broken(), "d": float("nan")}
    logging.getLogger("app").error("Bearer %s", "key-of-temporal", extra=values)
    line = json.loads(own_logging.getvalue())
    assert line["message"] == "Bearer ***"
    expected = {"a": "***", "b": "['***']", "c": "<Broken: RuntimeError>", "d": "nan"}
    assert line["extra"] == expected
