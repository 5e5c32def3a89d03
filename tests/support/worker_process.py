"""Workers in processes of their own, and what they say of themselves."""

import asyncio
import http.client
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import WorkflowHandle

from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]

HURRIED = {"SERVE_LANGFUSE": '{"flush_timeout": "1s"}'}
"""The environment of a worker that need not end in order, and is not waited for."""


class Serving:
    """A worker in a process of its own, its output and its probes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log = ""
        self._reading = asyncio.create_task(self._read())

    async def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        assert line == b"ready\n", self.log

    async def says(self, text: str) -> None:
        """Wait until the log has a text."""
        await until(lambda: text in self.log, lambda: f"no {text!r} in {self.log}")

    async def end(self) -> int:
        """Wait for the process's end, and return its exit code."""
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reading
        return code

    async def probe(self, path: str) -> tuple[int, Any]:
        """Ask a probe: the status, and the body, read as JSON if it is that."""
        await self.says("Probes at ")
        found = re.search(r"Probes at http://([\d.]+:\d+)", self.log)
        assert found
        return await asyncio.to_thread(get, found[1], path)

    async def becomes(self, path: str, status: int, text: str = "") -> Any:
        """Wait until a probe answers so, with a text anywhere in its body."""
        seen: Any = None

        async def is_so() -> bool:
            nonlocal seen
            code, seen = await self.probe(path)
            return code == status and text in json.dumps(seen)

        await until(is_so, lambda: f"{path} is {seen}, not {status} {text!r}\n{self.log}")
        return seen

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line.decode()


def get(address: str, path: str, method: str = "GET") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read().decode()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(body) if is_json and body else body
    finally:
        connection.close()


async def is_at_work(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether a worker has taken up an activity of the workflow."""
    pending = (await handle.describe()).raw_description.pending_activities
    started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    return any(activity.state == started for activity in pending)


def measured(what: str, value: object) -> None:
    """Tell a figure; `pytest -rP` shows it."""
    sys.stdout.write(f"measured: {what}: {value}\n")


@asynccontextmanager
async def serving(
    address: str,
    queue: str,
    namespace: str = "default",
    *,
    module: str = "tests.workflows.slow",
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Serving]:
    """Run `tests/programs/serve.py` with settings of the worker, in JSON's types."""
    arguments = (address, queue, namespace, module, json.dumps(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "tests/programs/serve.py", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=PIPE,
        stderr=PIPE,
    )
    worker = Serving(process)
    try:
        await worker.wait_ready()
        yield worker
    finally:
        await worker.kill()
