"""Runs workflows of many tenants for as long as asked, and fails where anything grows.

`python -m tests.soak --workflows 20000 --tenants 1000` is the whole thing; `--hours 8` goes on
until the time is over. Worker and client are measured apart, each in a process of its own.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

import psutil
from temporalio.client import Client

from orkestra import OrkestraConfig, TemporalConnectionManager, TemporalSettings, start_workflow
from orkestra.devserver import DevServer
from tests.workflows.slow import Slow

ROOT = Path(__file__).parents[2]
QUEUE = "soak"
AT_ONCE = 50
SAMPLES = 12
WARM = 3
"""Samples that are not compared: caches and pools fill to their bounds."""

MEMORY_MB = 24.0
COUNTS = 4


@dataclass(frozen=True)
class Sample:
    done: int
    memory_mb: float
    sockets: int
    threads: int
    files: int
    tasks: int | None

    @classmethod
    def of(cls, process: psutil.Process, done: int, tasks: int | None) -> "Sample":
        return cls(
            done=done,
            memory_mb=process.memory_info().rss / 2**20,
            sockets=len(process.net_connections("tcp")),
            threads=process.num_threads(),
            files=process.num_fds(),
            tasks=tasks,
        )


def growth(samples: list[Sample]) -> list[str]:
    """What grew from the first warm third to the last third of the samples."""
    warm = samples[WARM:]
    third = max(1, len(warm) // 3)
    first, last = warm[:third], warm[-third:]
    problems = []
    for name, allowed in {
        "memory_mb": MEMORY_MB,
        "sockets": COUNTS,
        "threads": COUNTS,
        "files": COUNTS,
        "tasks": COUNTS,
    }.items():
        before, after = (
            [value for each in part if (value := getattr(each, name)) is not None]
            for part in (first, last)
        )
        if before and min(after) - max(before) > allowed:
            problems.append(f"{name} grew from {max(before):.0f} to {min(after):.0f}")
    return problems


def row(who: str, sample: Sample) -> str:
    tasks = "-" if sample.tasks is None else str(sample.tasks)
    return (
        f"{who:<8}{sample.done:>8}{sample.memory_mb:>10.1f}{sample.sockets:>9}"
        f"{sample.threads:>9}{sample.files:>7}{tasks:>7}"
    )


async def run_batch(
    manager: TemporalConnectionManager, *, first: int, count: int, tenants: int
) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def run_one(number: int) -> None:
        async with room:
            client: Client = await manager.get_client(tenant=f"tenant-{number % tenants}")
            handle = await start_workflow(client, Slow.run, "obeys", 0.0, task_queue=QUEUE)
            assert await handle.result() == "finished"

    async with asyncio.TaskGroup() as group:
        for number in range(first, first + count):
            group.create_task(run_one(number))


async def soak(workflows: int, tenants: int, hours: float) -> int:
    worker_samples: list[Sample] = []
    client_samples: list[Sample] = []
    batch = max(1, workflows // SAMPLES)
    until = time.monotonic() + hours * 3600
    async with DevServer() as server:
        settings = json.dumps({"max_cached_workflows": 200})
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "tests/programs/serve.py"),
            *(server.address, QUEUE, "default", "tests.workflows.slow", settings),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=PIPE,
        )
        config = OrkestraConfig(temporal=TemporalSettings(address=server.address))
        done = 0
        print(f"{'done':>16}{'memory MB':>10}{'sockets':>9}{'threads':>9}{'files':>7}{'tasks':>7}")
        try:
            async with TemporalConnectionManager(config) as manager:
                while done < workflows or time.monotonic() < until:
                    await run_batch(manager, first=done, count=batch, tenants=tenants)
                    done += batch
                    tasks = len(asyncio.all_tasks())
                    worker_samples.append(Sample.of(psutil.Process(worker.pid), done, None))
                    client_samples.append(Sample.of(psutil.Process(), done, tasks))
                    print(
                        row("worker", worker_samples[-1]),
                        row("client", client_samples[-1]),
                        sep="\n",
                    )
        finally:
            worker.terminate()
            code = await worker.wait()
    problems = [f"worker: {each}" for each in growth(worker_samples)]
    problems += [f"client: {each}" for each in growth(client_samples)]
    if code:
        problems.append(f"the worker ended with exit code {code}")
    print("\n".join(problems) or "nothing grew")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--workflows", type=int, default=3000, help="at least so many")
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--hours", type=float, default=0.0, help="go on for so long")
    options = parser.parse_args()
    return asyncio.run(soak(options.workflows, options.tenants, options.hours))


if __name__ == "__main__":
    sys.exit(main())
