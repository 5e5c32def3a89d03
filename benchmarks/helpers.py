"""Processes that are measured, as the measuring program uses them."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.variants import TRACING

_LINE = 1 << 20


class Helper:
    """Process that answers each line with a line of JSON."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.process = process
        self.stdin, self.stdout = process.stdin, process.stdout

    async def read(self) -> Any:
        line = await self.stdout.readline()
        if not line:
            raise SystemExit("a measured process has ended; its error stands above")
        return json.loads(line)

    async def ask(self, what: str, **arguments: Any) -> Any:
        self.stdin.write(json.dumps([what, arguments]).encode() + b"\n")
        return await self.read()


@asynccontextmanager
async def helper(
    *command: str, environment: Mapping[str, str], under: Sequence[str] = ()
) -> AsyncIterator[Helper]:
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-m", *command),
        stdin=PIPE,
        stdout=PIPE,
        limit=_LINE,
        env={**inherited, **environment},
    )
    started = Helper(process)
    try:
        yield started
    finally:
        started.stdin.close()
        await process.wait()


@dataclass
class Team:
    """Processes of one variant."""

    worker: Helper
    client: Helper
    receiver: Helper | None
    environment: Mapping[str, str]


async def team(
    stack: AsyncExitStack, variant: str, address: str, *, under: Sequence[str] = ()
) -> Team:
    """Start a worker and a client, and a receiver of spans if the variant traces.

    Args:
        stack: Ends them.
        variant: Name of the variant.
        address: The server.
        under: A command that the worker runs under, and that slows it down.
    """
    environment: dict[str, str] = {"TEMPORAL_ADDRESS": address}
    receiver: Helper | None = None
    if variant in TRACING:
        command = "benchmarks.receiver_process"
        receiver = await stack.enter_async_context(helper(command, environment={}))
        environment |= await receiver.read()
    started = [
        await stack.enter_async_context(
            helper(
                *("benchmarks.process", role, variant, address),
                environment=environment,
                under=around,
            )
        )
        for role, around in (("counted worker" if under else "worker", under), ("client", ()))
    ]
    for each in started:
        await each.read()
    return Team(started[0], started[1], receiver, environment)


async def once(*command: str, environment: Mapping[str, str]) -> Any:
    """Run a program to its end, and return its output."""
    async with helper(*command, environment=environment) as program:
        return await program.read()
