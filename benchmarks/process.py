"""Worker or client of one variant in its own process, which executes one request per line."""

import asyncio
import gc
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TextIO

from temporalio.client import Client, WorkflowHistory
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Replayer

from benchmarks.answers import own_stdout
from benchmarks.crowd import Crowd
from benchmarks.scenarios import CONCURRENCY, RACE, SCENARIOS
from benchmarks.variants import TENANT, VARIANTS, Setup
from benchmarks.workloads.minimal import OneActivity
from benchmarks.workloads.modelled import Modelled
from benchmarks.workloads.plain import WORKFLOWS, Activities, Mailbox
from orkestra import TemporalConnectionManager

_PAGE = 4096
_CACHED = 2_000
"""Larger than the number of cached workflows of any measurement, so that none is evicted."""


class Process:
    """Handler of requests, one per method."""

    def __init__(self, variant: str, setup: Setup, client: Client) -> None:
        # Of one length for all, as it stands in many events of a history.
        self.queue = f"queue-{list(VARIANTS).index(variant)}"
        self.setup = setup
        self.client = client
        self.kept: list[Any] = []
        manager = None if setup.config is None else TemporalConnectionManager(setup.config)
        self.crowd = Crowd(manager, client, self.queue)

    async def used(self) -> float:
        """Return the CPU so far, with the pending spans sent."""
        await self.setup.flush()
        return time.process_time()

    async def held(self) -> float:
        """Return the memory after a garbage collection."""
        gc.collect()
        return memory()

    async def run(self, scenario: str, count: int) -> dict[str, Any]:
        """Run some units of a scenario."""
        made = RACE if scenario == "race" else SCENARIOS[scenario]
        started, cpu = time.perf_counter(), time.process_time()
        workflow_id = await made.run(self.client, self.queue, count)
        wall = time.perf_counter() - started
        await self.setup.flush()
        used = time.process_time() - cpu
        described = await self.client.get_workflow_handle(workflow_id).describe()
        size = described.raw_info.history_size_bytes
        return {"cpu": used, "wall": wall, "history": size}

    async def park(self, count: int) -> None:
        """Start waiting workflows, or end them if the number is zero."""

        async def end(handle: Any) -> None:
            await handle.signal(Mailbox.finish)
            await handle.result()

        async def begin(number: int) -> Any:
            handle = await self.client.start_workflow(
                Mailbox.run, id=f"parked-{self.queue}-{number}", task_queue=self.queue
            )
            await handle.query(Mailbox.count)
            return handle

        await asyncio.gather(*(end(handle) for handle in self.kept))
        self.kept = []
        for first in range(0, count, CONCURRENCY):
            numbers = range(first, min(count, first + CONCURRENCY))
            self.kept += await asyncio.gather(*(begin(number) for number in numbers))

    async def tenants(self, count: int, address: str) -> dict[str, float]:
        """Create and keep a client for each of this number of tenants."""
        if self.setup.config is None:

            async def make(tenant: str) -> Client:
                del tenant
                return Client(
                    self.client.service_client,
                    plugins=self.setup.plugins,
                    interceptors=self.setup.interceptors,
                )
        else:
            temporal = self.setup.config.temporal.model_copy(update={"address": address})
            config = self.setup.config.model_copy(update={"temporal": temporal})
            manager = TemporalConnectionManager(config)
            await manager.get_client(tenant=TENANT)

            async def make(tenant: str) -> Client:
                return await manager.get_client(tenant=tenant)

        gc.collect()
        gc.disable()  # it would scan all objects of the benchmark
        # Of this thread: another one imports Langfuse meanwhile, once.
        before, cpu = memory(), time.thread_time()
        kept = [await make(f"tenant-{number}") for number in range(count // 10)]
        first = time.thread_time() - cpu
        gc.enable()
        kept += [await make(f"tenant-{number}") for number in range(count // 10, count)]
        used = time.thread_time() - cpu
        gc.collect()
        return {
            "cpu": first / (count // 10),
            "cpu_of_all": used / count,
            "memory": (memory() - before) / len(kept),
        }

    async def grow(self, tenants: int) -> None:
        """Use this number of tenants, each known to the worker."""
        await self.crowd.grow(tenants)

    async def spread(self, count: int) -> None:
        """Run this number of workflows, spread over the tenants."""
        await self.crowd.run(count)

    async def history(self, file: str, rounds: int = 16, parallel: int = 100) -> None:
        """Write the history to replay, by default of about 5,000 events."""
        handle = await self.client.start_workflow(
            Activities.run, args=[rounds, parallel], id=str(uuid.uuid4()), task_queue=self.queue
        )
        await handle.result()
        history = await handle.fetch_history()
        written = json.dumps([handle.id, history.to_json()])
        Path(file).write_text(written)  # noqa: ASYNC240 - nothing else is going on here

    async def replay(self, file: str, times: int = 1) -> dict[str, float]:
        """Replay the history this number of times."""
        workflow_id, written = json.loads(Path(file).read_text())  # noqa: ASYNC240 - likewise
        history = WorkflowHistory.from_json(workflow_id, written)
        options: dict[str, Any] = {
            "plugins": self.setup.plugins,
            "interceptors": self.setup.interceptors,
        }
        if self.setup.runner is not None:
            options["workflow_runner"] = self.setup.runner
        replayer = Replayer(workflows=[*WORKFLOWS, OneActivity, Modelled], **options)

        async def copies() -> AsyncIterator[WorkflowHistory]:
            for _ in range(times):
                yield history

        cpu = time.process_time()
        await replayer.replay_workflows(copies())
        used = time.process_time() - cpu
        return {"cpu": used, "events": len(history.events) * times}


def memory() -> float:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def main(role: str, variant: str, address: str) -> None:
    out = own_stdout()
    setup = VARIANTS[variant](TENANT if role == "client" else None)
    client = await setup.connect(address)
    process = Process(variant, setup, client)
    if role == "client":
        await answer(process, out)
        return
    worker = setup.worker(client, process.queue, max_cached_workflows=_CACHED)
    if role == "counted worker":  # so slow that the SDK would take it for stuck
        worker._workflow_worker._deadlock_timeout_seconds = None  # type: ignore[union-attr] # noqa: SLF001
    async with worker:
        await answer(process, out)


async def ended(work: Coroutine[Any, Any, None]) -> None:
    """Exit when a worker fails, although a thread still waits for the next request."""
    try:
        await work
    except BaseException:  # noqa: BLE001 - any failure ends the process
        traceback.print_exc()
        os._exit(1)


async def answer(process: Process, out: TextIO) -> None:
    print(json.dumps("ready"), file=out, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked, arguments = json.loads(line)
        answered = await getattr(process, asked)(**arguments)
        print(json.dumps(answered), file=out, flush=True)


if __name__ == "__main__":
    Runtime.set_default(
        Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(TelemetryFilter("ERROR", "ERROR"))))
    )
    asyncio.run(ended(main(*sys.argv[1:])))
