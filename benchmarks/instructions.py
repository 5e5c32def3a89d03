"""Instructions that a worker executes for a unit of a scenario, counted by callgrind.

Beside CPU time they are the same on a busy machine as on an idle one, within a percent or two; they
leave out what the kernel does, and memory that is slow to answer.
"""

import asyncio
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.helpers import team
from benchmarks.measuring import UNHURRIED
from benchmarks.samples import Samples
from benchmarks.scenarios import SCENARIOS
from orkestra.devserver import DevServer

SCALE = 1 / 3
"""A worker is about fifty times slower under valgrind."""

ROUNDS = 2


class Callgrind:
    """Counter of the instructions of a process.

    Args:
        directory: Where it writes what it counted.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        output = directory / "counted"
        self.command = ("valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={output}")

    @staticmethod
    def is_here() -> bool:
        """Return whether valgrind is installed."""
        return shutil.which("callgrind_control") is not None

    async def since_last(self, process: Process) -> float:
        """Return the instructions since the last call."""
        for file in self._directory.iterdir():
            file.unlink()
        dump = await asyncio.create_subprocess_exec(
            *("callgrind_control", "--dump", str(process.pid)), stdout=DEVNULL, stderr=PIPE
        )
        _, problem = await dump.communicate()
        counts = [
            int(line.split()[1])
            for file in self._directory.iterdir()
            for line in file.read_text(errors="replace").splitlines()
            if line.startswith(("summary:", "totals:"))
        ]
        if not counts:
            raise SystemExit(f"callgrind gave no count: {problem.decode()}")
        return max(counts)


async def count_instructions(
    samples: Samples, variants: Collection[str], scenarios: Collection[str], console: Console
) -> None:
    """Add the instructions of workers to the samples, in millions a unit.

    Args:
        samples: Where they are added.
        variants: Names of variants, counted one after the other.
        scenarios: Names of scenarios; others are left out.
        console: Where progress is shown.
    """
    wanted = [name for name in scenarios if name in SCENARIOS]
    for variant in variants:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(DevServer(ui=False, dynamic_config=UNHURRIED))
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            callgrind = Callgrind(directory)
            each = await team(stack, variant, server.address, under=callgrind.command)
            for name in wanted:
                count = max(1, round(SCENARIOS[name].count * SCALE))
                for number in range(ROUNDS + 1):
                    await callgrind.since_last(each.worker.process)
                    await each.client.ask("run", scenario=name, count=count)
                    await each.worker.ask("used")
                    counted = await callgrind.since_last(each.worker.process)
                    if number:  # the first round warms up
                        millions = counted / count / 1e6
                        samples[name][variant]["worker_instructions"].append(millions)
        console.print(f"  instructions, {variant}", style="dim")
