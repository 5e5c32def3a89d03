"""The worker's process, seen from the one that watches it."""

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

from orkestra.dev.messages import Told, understand
from orkestra.dev.runner import GO

_LONGEST_LINE: Final = 1 << 20
_LAST_WORDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How the worker's process is to run.

    Attributes:
        app: The application, as on the command line.
        task_queue: Its queue, where one was chosen.
        config_file: The configuration file, where one was named.
        force: Run even where open executions cannot go on.
        environment: Its whole environment.
        patience: How long it may take to end when it is told to.
    """

    app: str
    task_queue: str | None
    config_file: Path | None
    force: bool
    environment: Mapping[str, str]
    patience: timedelta


class WorkerProcess:
    """A worker in a process of its own, which ends when this one does."""

    def __init__(
        self,
        process: Process,
        messages: asyncio.StreamReader,
        *,
        on_line: Callable[[str], None],
        on_message: Callable[[Told], None],
    ) -> None:
        """Follow a process; use `start()` to make one."""
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
        on_message: Callable[[Told], None],
    ) -> Self:
        """Start a worker that loads its application and then waits for `go()`.

        Args:
            options: How it is to run.
            on_line: Called with each line that it writes.
            on_message: Called with each message from it.
        """
        receiving, sending = os.pipe()
        try:
            drift = "force" if options.force else "hold"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "orkestra.dev.runner", options.app),
                *(options.task_queue or "", str(options.config_file or ""), str(sending), drift),
                env=dict(options.environment),
                limit=_LONGEST_LINE,
                pass_fds=(sending,),
                start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
            )
        finally:
            os.close(sending)
        messages = asyncio.StreamReader(limit=_LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(messages), os.fdopen(receiving, "rb", 0)
        )
        return cls(process, messages, on_line=on_line, on_message=on_message)

    def go(self) -> None:
        """Let it run."""
        if self._process.stdin is not None:
            self._process.stdin.write(GO)

    async def wait(self) -> int:
        """Wait until it has ended and everything that it said is read.

        Returns:
            Its exit code, negative for a signal.
        """
        code = await self._process.wait()
        # Processes that it started may keep its pipes open for as long as they like.
        await asyncio.wait(self._following, timeout=_LAST_WORDS)
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        return code

    async def end(self, patience: timedelta) -> bool:
        """Tell it to finish what it does, and kill it where it does not.

        Args:
            patience: How long it may take.

        Returns:
            Whether it ended by itself.
        """
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self.wait()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """End it at once; does nothing where it has ended."""
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
            except ValueError:  # longer than any that one wants to see
                continue
            if not line:
                return
            on_line(line.decode(errors="replace").rstrip())


async def _read_messages(
    messages: asyncio.StreamReader, on_message: Callable[[Told], None]
) -> None:
    while line := await messages.readline():
        on_message(understand(line))
