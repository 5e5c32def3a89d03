"""`make bench`: worker CPU, history and memory of each variant, in alternation, as ratios.

The variants take turns in every round, so that a machine whose speed drifts slows all of them
alike; each figure is the ratio of a round to the bare SDK's in the same round.
"""

import argparse
import asyncio
import json
import os
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio.client import Client

from benchmarks.variants import BARE, VARIANTS, connect
from benchmarks.workload import OneActivity
from orkestra.devserver import DevServer

CONCURRENCY = 20


@dataclass
class Measured:
    """What one variant used, a figure a round."""

    worker_ms: list[float] = field(default_factory=list)
    client_ms: list[float] = field(default_factory=list)
    history_bytes: int = 0
    peak_memory: float = 0.0


class Helper:
    """A process of its own that answers each line with a line."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.stdin, self.stdout = process.stdin, process.stdout

    async def read(self) -> str:
        return (await self.stdout.readline()).decode()

    async def ask(self) -> tuple[float, float]:
        """CPU seconds used so far, and the most memory so far."""
        self.stdin.write(b"\n")
        cpu, peak = (await self.read()).split()
        return float(cpu), float(peak)


@asynccontextmanager
async def helper(*command: str) -> AsyncIterator[Helper]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command), stdin=PIPE, stdout=PIPE
    )
    started = Helper(process)
    try:
        yield started
    finally:
        started.stdin.close()
        await process.wait()


async def start_workers(stack: AsyncExitStack, address: str) -> dict[str, Helper]:
    workers = {}
    for variant in VARIANTS:
        command = ("benchmarks.worker_process", variant, address)
        workers[variant] = await stack.enter_async_context(helper(*command))
        await workers[variant].read()
    return workers


async def run_workflows(client: Client, variant: str, count: int) -> str:
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one() -> str:
        async with slots:
            handle = await client.start_workflow(
                OneActivity.run, "you", id=str(uuid.uuid4()), task_queue=variant
            )
            await handle.result()
            return handle.id

    return (await asyncio.gather(*(one() for _ in range(count))))[0]


async def measure(rounds: int, count: int) -> dict[str, Measured]:
    measured = {variant: Measured() for variant in VARIANTS}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DevServer(ui=False))
        receiver = await stack.enter_async_context(helper("benchmarks.receiver_process"))
        os.environ |= json.loads(await receiver.read())
        workers = await start_workers(stack, server.address)
        clients = {v: await connect(v, server.address, tenant="acme") for v in VARIANTS}
        for number in range(rounds + 1):
            for variant, result in measured.items():
                (cpu, _), own = await workers[variant].ask(), sum(os.times()[:2])
                workflow_id = await run_workflows(clients[variant], variant, count)
                if number == 0:  # the first round warms up
                    description = await clients[variant].get_workflow_handle(workflow_id).describe()
                    result.history_bytes = description.raw_info.history_size_bytes
                    continue
                after, result.peak_memory = await workers[variant].ask()
                result.worker_ms.append((after - cpu) / count * 1000)
                result.client_ms.append((sum(os.times()[:2]) - own) / count * 1000)
    return measured


def ratios(ours: list[float], bare: list[float]) -> tuple[float, float, float]:
    pairs = [one / other for one, other in zip(ours, bare, strict=True)]
    return median(pairs), min(pairs), max(pairs)


def report(measured: dict[str, Measured], count: int) -> dict[str, Any]:
    bare = measured[BARE]
    results = {}
    table = Table(title=f"A workflow of one activity, {len(bare.worker_ms)} rounds of {count}")
    for column in ("variant", "worker CPU", "(ms)", "client CPU", "(ms)", "history", "memory"):
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for variant, own in measured.items():
        worker, client = (
            ratios(own.worker_ms, bare.worker_ms),
            ratios(own.client_ms, bare.client_ms),
        )
        growth = own.history_bytes - bare.history_bytes
        table.add_row(
            variant,
            "{:.2f} ({:.2f} to {:.2f})".format(*worker),
            f"{median(own.worker_ms):.1f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*client),
            f"{median(own.client_ms):.1f}",
            f"{own.history_bytes} ({growth:+})",
            f"{own.peak_memory / bare.peak_memory:.2f}",
        )
        results[variant] = {
            "worker_cpu_ratio": worker,
            "worker_cpu_ms": own.worker_ms,
            "client_cpu_ratio": client,
            "client_cpu_ms": own.client_ms,
            "history_bytes": own.history_bytes,
            "peak_memory_ratio": own.peak_memory / bare.peak_memory,
        }
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(
        "Ratios to the bare SDK in the same round, median (lowest to highest); history in bytes;"
        " memory: the worker's peak beside the bare SDK's.",
        style="dim",
    )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=200, help="workflows a round")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    results = report(asyncio.run(measure(options.rounds, options.count)), options.count)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
