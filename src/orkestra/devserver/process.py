"""A command under its reaper, seen from the program that started it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from io import FileIO


_REAPER: Final = Path(__file__).with_name("reaper.py")
_TICK: Final = 0.02
_PATIENCE: Final = 2.0  # with a reaper that does not do what it is told


class ReapedProcess:
    """A command that ends when this program does, however that comes about.

    Starting it takes a few milliseconds and has no point at which it can be cancelled, so there is
    no moment at which a process exists that nobody holds. It belongs to no event loop.

    Attributes:
        pid: Number of the command's process, once its reaper has reported it.
        is_up: Whether it has written anything to its standard output.
        exit_code: Its exit code, negative for a signal; None while it runs, and where its reaper
            was killed.
        output: The end of what it wrote, at most 32 KB; empty until it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        grace: timedelta,
        echo: bool,
    ) -> None:
        """Start the command.

        Args:
            command: Absolute path of the program, and its arguments.
            environment: The whole environment that it gets.
            grace: How long it may take to end by itself when asked to.
            echo: Copy its standard error to that of this program.
        """
        arguments = [str(os.getpid()), str(grace.total_seconds()), "echo" if echo else "quiet"]
        self._reaper = subprocess.Popen(  # noqa: S603 - the program that the caller chose
            [sys.executable, "-I", "-S", "-B", str(_REAPER), *arguments, *command],
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the program, which then ends its server
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if echo else subprocess.STDOUT,
        )
        self._commands = cast("FileIO", self._reaper.stdin)
        self._reports = cast("FileIO", self._reaper.stdout)
        os.set_blocking(self._reports.fileno(), False)
        self._grace = grace.total_seconds()
        self._unread = b""
        self.pid: int | None = None
        self.is_up = False
        self.exit_code: int | None = None
        self.output = ""

    def poll(self) -> bool:
        """Take in what the reaper has reported; False once the command has ended."""
        if self._reports.closed:
            return False
        is_running = self._reaper.poll() is None
        self._read()
        if not is_running:
            self._finish()
        return is_running

    async def wait(self) -> None:
        """Wait until the command has ended."""
        while self.poll():  # noqa: ASYNC110 - an event would tie it to one loop
            await asyncio.sleep(_TICK)

    async def end(self) -> None:
        """End the command with SIGTERM, and with SIGKILL after the grace."""
        await self._end(b"T", self._grace + _PATIENCE)

    async def kill(self) -> None:
        """End the command with SIGKILL."""
        await self._end(b"K", _PATIENCE)

    def kill_now(self) -> None:
        """End the command with SIGKILL without giving way to other tasks; takes some 30 ms."""
        if not self.poll():
            return
        self._send(b"K")
        try:
            self._reaper.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # the reaper is stopped, or its standard error blocks
            self._reaper.kill()
            self._reaper.wait()
        self.poll()

    async def _end(self, command: bytes, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                if self.poll():
                    self._send(command)
                await self.wait()
        except TimeoutError:
            pass
        finally:
            self.kill_now()

    def _finish(self) -> None:
        self.output = self._unread.decode(errors="replace").strip()
        self._commands.close()
        self._reports.close()
        if self.exit_code is None and self.pid is not None:  # somebody killed the reaper
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _send(self, command: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(command)

    def _read(self) -> None:
        while data := self._reports.read(65536):
            self._unread += data
        while self.exit_code is None and b"\n" in self._unread:
            line, _, rest = self._unread.partition(b"\n")
            if not self._understand(line):
                break
            self._unread = rest

    def _understand(self, line: bytes) -> bool:
        match line.split():
            case [b"pid", number]:
                self.pid = int(number)
            case [b"up"]:
                self.is_up = True
            case [b"end", code]:
                self.exit_code = int(code)
            case _:  # a reaper that failed itself
                return False
        return True
