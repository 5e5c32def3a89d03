"""Record which functions of Orkestra run for each operation: python journeys.py, prints JSON.

A profile function on every thread notes each call into the package, under the name of the phase
that is going on. The server, the receiver and the workflows run in the same process; the files of
the test kit are left out.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

import orkestra
from orkestra import (
    OrkestraConfig,
    TemporalConnectionManager,
    create_worker,
    run_worker,
    start_workflow,
)
from orkestra.devserver import DevServer
from orkestra.testing import LangfuseReceiver

PACKAGE = str(Path(orkestra.__file__).parent) + os.sep
TEST_KIT = ("testing", "devserver", "otlp.py")
QUEUE = "journeys"
DEADLINE = 60.0

recorded: dict[str, dict[str, dict[str, None]]] = {}
phase = ""


@activity.defn
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            greet, name, start_to_close_timeout=timedelta(seconds=30)
        )


@workflow.defn
class Waiting:
    def __init__(self) -> None:
        self.may_go = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.may_go)

    @workflow.signal
    def note(self) -> None:
        """Receive a signal, and go on waiting."""

    @workflow.signal
    def go(self) -> None:
        self.may_go = True


def record(frame: FrameType, event: str, _: object) -> None:
    file = frame.f_code.co_filename
    if not phase or event != "call" or not file.startswith(PACKAGE):
        return
    name = frame.f_code.co_qualname
    relative = file.removeprefix(PACKAGE)
    if name != "<module>" and not relative.startswith(TEST_KIT):
        recorded.setdefault(phase, {}).setdefault(relative, {})[name] = None


@contextmanager
def during(name: str) -> Iterator[None]:
    global phase  # noqa: PLW0603 - the profile function runs on every thread
    phase = name
    try:
        yield
    finally:
        phase = ""


async def until_traced(receiver: LangfuseReceiver, *workflow_ids: str) -> None:
    """Wait until Langfuse has the workflows' own spans, which are their last."""
    async with asyncio.timeout(DEADLINE):
        while not all(
            any(
                span.name.startswith("workflow:") and workflow_id in str(span.attributes)
                for span in receiver.spans
            )
            for workflow_id in workflow_ids
        ):
            await asyncio.sleep(0.05)


async def until_idle(raw: Client, workflow_id: str, *, signals: int) -> None:
    """Wait until the workflow has so many signals and the worker has answered its last task."""
    async with asyncio.timeout(DEADLINE):
        while True:
            history = await raw.get_workflow_handle(workflow_id).fetch_history()
            kinds = [event.event_type for event in history.events]
            received = kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
            if received == signals and kinds[-1] == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                return
            await asyncio.sleep(0.05)


async def walk(config: OrkestraConfig, raw: Client, receiver: LangfuseReceiver) -> int:
    """Do each operation once, with a worker and spans of its own to wait for where it needs them.

    Returns:
        The exit code of the worker that SIGTERM ends.
    """

    def greeting() -> Awaitable[WorkflowHandle[Greeting, str]]:
        return start_workflow(acme, Greeting.run, "ada", task_queue=QUEUE)

    def new_worker() -> Awaitable[Worker]:
        return create_worker(
            config, task_queue=QUEUE, workflows=[Greeting, Waiting], activities=[greet]
        )

    async with TemporalConnectionManager(config) as manager:
        acme = await manager.get_client(tenant="acme")
        started = [await greeting()]
        with during("start"):
            started.append(await greeting())
        with during("list"):
            _ = [each async for each in acme.list_workflows("WorkflowType = 'Greeting'")]
        # The SDK's own life cycle: no probes or watches run beside the operation.
        async with await new_worker():
            await until_traced(receiver, *(each.id for each in started))
            with during("start to span"):
                traced = await greeting()
                await until_traced(receiver, traced.id)
            waiting = await start_workflow(acme, Waiting.run, task_queue=QUEUE)
            await until_idle(raw, waiting.id, signals=0)
            await asyncio.sleep(1)  # the outbox's timer for the task before
            with during("signal"):
                await waiting.signal(Waiting.note)
                await until_idle(raw, waiting.id, signals=1)
        with during("create_worker"):
            worker = await new_worker()
        running = asyncio.create_task(run_worker(worker))
        await waiting.signal(Waiting.go)
        await until_traced(receiver, waiting.id)
        with during("stop"):
            os.kill(os.getpid(), signal.SIGTERM)
            return await running


async def main() -> None:
    async with DevServer() as server:
        with LangfuseReceiver() as receiver:
            config = OrkestraConfig.model_validate(
                {
                    "temporal": {"address": server.address},
                    "langfuse": {
                        "public_key": receiver.public_key,
                        "secret_key": receiver.secret_key,
                        "base_url": receiver.url,
                    },
                    "worker": {"probes_address": "127.0.0.1:0", "restart": True},
                }
            )
            code = await walk(config, await Client.connect(server.address), receiver)
    json.dump({"exit_code": code, "phases": recorded}, sys.stdout, default=list)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    threading.setprofile(record)
    sys.setprofile(record)
    asyncio.run(main())
