"""The worker's process as `orkestra dev` starts, follows and ends it."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from orkestra.dev.messages import WorkerMessage, parse_message
from orkestra.dev.runner import GO

_LONGEST_LINE_BYTES: Final = 1 << 20
_PIPE_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of the worker's process, which is killed if it takes longer than `end_timeout`."""

    app: str
    task_queue: str | None
    config_file: Path | None
    force: bool
    environment: Mapping[str, str]
    end_timeout: timedelta


class WorkerProcess:
    """A worker in a process of its own, which ends when this one does."""

    def __init__(
        self,
        process: Process,
        messages: asyncio.StreamReader,
        *,
        on_line: Callable[[str], None],
        on_message: Callable[[WorkerMessage], None],
    ) -> None:
        """Follow a process that `start()` made."""
        self._process = process
        self._following = [
            asyncio.create_task(self._read_output(on_line)),
            asyncio.create_task(_read_messages(messages, on_message)),
        ]

    @classmethod
    async def start(
        cls,
        options: WorkerOptions,
        *,
        on_line: Callable[[str], None],
        on_message: Callable[[WorkerMessage], None],
    ) -> Self:
        """Start a worker that imports its application and then waits for `go()`.

        `on_line` is called with each line that it prints, `on_message` with each message.
        """
        # A pipe of its own for messages: the application's prints share standard output.
        receiving, sending = os.pipe()
        try:
            drift = "force" if options.force else "hold"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "orkestra.dev.runner", options.app),
                *(options.task_queue or "", str(options.config_file or ""), str(sending), drift),
                env=dict(options.environment),
                limit=_LONGEST_LINE_BYTES,
                pass_fds=(sending,),
                start_new_session=True,  # so that Ctrl-C reaches this process alone
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
            )
        finally:
            os.close(sending)
        messages = asyncio.StreamReader(limit=_LONGEST_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(messages), os.fdopen(receiving, "rb", 0)
        )
        return cls(process, messages, on_line=on_line, on_message=on_message)

    def go(self) -> None:
        """Let it run."""
        if self._process.stdin is not None:
            self._process.stdin.write(GO)

    async def wait(self) -> int:
        """Wait for its end and its last output, and return its exit code, negative for a signal."""
        code = await self._process.wait()
        # Processes that it started can keep its pipes open.
        await asyncio.wait(self._following, timeout=_PIPE_SECONDS)
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        return code

    async def end(self, timeout: timedelta) -> bool:
        """Stop it gracefully, or kill it after the time-out; return whether it ended in time."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self.wait()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """Kill it; does nothing after its end."""
        self._signal(signal.SIGKILL)
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read_output(self, on_line: Callable[[str], None]) -> None:
        output = self._process.stdout
        while output is not None:
            try:
                line = await output.readline()
            except ValueError:  # a line that is longer than the limit
                continue
            if not line:
                return
            on_line(line.decode(errors="replace").rstrip())


async def _read_messages(
    messages: asyncio.StreamReader, on_message: Callable[[WorkerMessage], None]
) -> None:
    while line := await messages.readline():
        on_message(parse_message(line))
