"""Command with a reaper, seen from the program that started it. `reaper` says why it needs one."""

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
_POLL_SECONDS: Final = 0.02
_REAPER_SECONDS: Final = 2.0  # for a reaper to answer before it is killed itself


class ReapedProcess:
    """Command that ends when this program does, however the program ends.

    The constructor takes a few milliseconds and cannot be cancelled, so no process can be left
    without an owner. The object is bound to no event loop.

    Attributes:
        pid: Process ID of the command, once its reaper has reported it.
        is_up: The command has written to its standard output.
        exit_code: Exit code, negative for a signal; None while the command runs, or if its reaper
            was killed.
        output: End of its output, at most 32 KB; empty until it has ended.
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
            environment: The whole environment of the command.
            grace: Time from SIGTERM to SIGKILL.
            echo: Copy its standard error to that of this program.
        """
        arguments = [str(os.getpid()), str(grace.total_seconds()), "echo" if echo else "quiet"]
        self._reaper = subprocess.Popen(  # noqa: S603 - the program that the caller chose
            # Isolated and without site packages: no variable or .pth file can change the reaper.
            [sys.executable, "-I", "-S", "-B", str(_REAPER), *arguments, *command],
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the program, which then ends its command
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if echo else subprocess.STDOUT,
        )
        self._commands = cast("FileIO", self._reaper.stdin)
        self._reports = cast("FileIO", self._reaper.stdout)
        # Polled, not awaited: a transport would tie the object to one event loop.
        os.set_blocking(self._reports.fileno(), False)
        self._grace = grace.total_seconds()
        self._unread = b""
        self.pid: int | None = None
        self.is_up = False
        self.exit_code: int | None = None
        self.output = ""

    def poll(self) -> bool:
        """Read the reaper's reports; False once the command has ended."""
        if self._reports.closed:
            return False
        # Asked before reading: reports that arrive in between must not be lost.
        is_running = self._reaper.poll() is None
        self._read()
        if not is_running:
            self._finish()
        return is_running

    async def wait(self) -> None:
        """Wait until the command has ended."""
        while self.poll():  # noqa: ASYNC110 - an event would tie it to one loop
            await asyncio.sleep(_POLL_SECONDS)

    async def end(self) -> None:
        """End the command with SIGTERM, or with SIGKILL after the grace."""
        await self._end(b"T", self._grace + _REAPER_SECONDS)

    async def kill(self) -> None:
        """End the command with SIGKILL."""
        await self._end(b"K", _REAPER_SECONDS)

    def kill_now(self) -> None:
        """End the command with SIGKILL without yielding to other tasks; takes some 30 ms."""
        if not self.poll():
            return
        self._send(b"K")
        try:
            self._reaper.wait(_REAPER_SECONDS)
        except subprocess.TimeoutExpired:  # the reaper is stopped, or its standard error blocks
            self._reaper.kill()
            self._reaper.wait()
        self.poll()

    async def _end(self, command: bytes, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                if self.poll():
                    self._send(command)
                await self.wait()
        except TimeoutError:
            pass
        finally:
            # Does nothing after a normal end; after a time-out or a cancellation it is the end.
            self.kill_now()

    def _finish(self) -> None:
        self.output = self._unread.decode(errors="replace").strip()
        self._commands.close()
        self._reports.close()
        if self.exit_code is None and self.pid is not None:  # the reaper was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _send(self, command: bytes) -> None:
        # The reaper has ended: the reports say how.
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(command)

    def _read(self) -> None:
        while data := self._reports.read(65536):
            self._unread += data
        while self.exit_code is None and b"\n" in self._unread:
            line, _, rest = self._unread.partition(b"\n")
            if not self._parse(line):
                break
            self._unread = rest

    def _parse(self, line: bytes) -> bool:
        match line.split():
            case [b"pid", number]:
                self.pid = int(number)
            case [b"up"]:
                self.is_up = True
            case [b"end", code]:
                self.exit_code = int(code)
            case _:  # the traceback of a reaper that failed
                return False
        return True
