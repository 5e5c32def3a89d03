"""Process between a program and its embedded server: the server never outlives either.

`process` runs it as a script, in a Python of its own: `reaper.py PARENT GRACE ECHO COMMAND...`. It
uses little of the standard library and no site packages, so it starts in 30 ms and takes 10 MB.

A program that is killed with -9 runs no code, so another process has to end its server. Linux can
signal a child when its parent dies (PR_SET_PDEATHSIG), but that means the end of the *thread* that
made the child, which may be any executor's, and macOS has no such thing. The reaper's standard
input is a pipe that the system closes with the program. A process forked from the program may keep
that pipe open, so the reaper also checks its parent. If the reaper itself is killed,
PR_SET_PDEATHSIG ends the server where it exists: the reaper has only one thread.

The reaper reads the server's output all the time and keeps the end of it, so a program that hangs
does not block its server.

Commands on standard input: `T` ends the server with SIGTERM, and with SIGKILL after the grace; `K`
and the end of the pipe mean SIGKILL. Reports on standard output: `pid N`, `up` when the server has
printed that it serves, `end N` with its exit code, then the end of its output.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

_KEPT_BYTES: Final = 32 * 1024  # less than a pipe holds, so that the last report cannot block
_PARENT_CHECK_SECONDS: Final = 0.5
_CHUNK_BYTES: Final = 64 * 1024
_PR_SET_PDEATHSIG: Final = 1


class Reaper:
    """Starts the command, keeps its output and ends it."""

    def __init__(self, *, parent: int, grace: float, echo: bool) -> None:
        self._parent = parent
        self._grace = grace
        self._echo = echo
        self._server = 0
        self._kill_at: float | None = None
        self._is_up = False
        self._kept = b""

    def run(self, command: list[str]) -> None:
        """Run the command until it ends."""
        if os.getppid() != self._parent:
            return
        # Before the fork: a server that ends at once must not end unseen.
        wake = _wake_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        output, output_end = os.pipe()
        log, log_end = os.pipe()
        self._server = _start(command, output_end, log_end)
        # Or the end of the server would not close its output.
        os.close(output_end)
        os.close(log_end)
        _report(b"pid %d\n" % self._server)
        code = self._watch(
            {
                sys.stdin.fileno(): self._on_command,
                wake: self._on_signal,
                output: self._on_output,
                log: self._on_log,
            }
        )
        _report(b"end %d\n%s" % (code, self._kept))

    def _watch(self, sources: dict[int, Callable[[bytes], None]]) -> int:
        while True:
            self._read(sources, self._seconds_left())
            if os.getppid() != self._parent or self._seconds_left() == 0:
                self._signal(signal.SIGKILL)
            # By asking, not by SIGCHLD alone: signals merge, and select() has a time limit anyway.
            ended, status = os.waitpid(self._server, os.WNOHANG)
            if ended:
                self._server = 0
                # The last output is still in the pipes.
                while self._read(sources, 0):
                    pass
                return os.waitstatus_to_exitcode(status)

    def _read(self, sources: dict[int, Callable[[bytes], None]], wait: float) -> bool:
        ready, _, _ = select.select(list(sources), (), (), wait)
        for source in ready:
            data = os.read(source, _CHUNK_BYTES)
            sources[source](data)
            if not data:
                del sources[source]
        return bool(ready)

    def _seconds_left(self) -> float:
        if self._kill_at is None:
            return _PARENT_CHECK_SECONDS
        return min(_PARENT_CHECK_SECONDS, max(0.0, self._kill_at - time.monotonic()))

    def _on_command(self, data: bytes) -> None:
        if not data or b"K" in data:
            self._signal(signal.SIGKILL)
        elif b"T" in data:
            self._end_gracefully()

    def _on_signal(self, numbers: bytes) -> None:
        if set(numbers) - {signal.SIGCHLD}:
            self._end_gracefully()

    def _on_output(self, data: bytes) -> None:
        self._keep(data)
        # The server prints its addresses when it serves; its log is on the other pipe.
        if data and not self._is_up:
            self._is_up = True
            _report(b"up\n")

    def _on_log(self, data: bytes) -> None:
        self._keep(data)
        if self._echo:
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), data)

    def _keep(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-_KEPT_BYTES:]

    def _end_gracefully(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._server:  # until it is reaped, its ID is not reused
            os.kill(self._server, number)


def _wake_on(*signals: int) -> int:
    wake, wake_end = os.pipe()
    # set_wakeup_fd() refuses a blocking descriptor.
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    for number in signals:
        # A function, not SIG_IGN, which the server would inherit.
        signal.signal(number, _ignore)
    return wake


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up has happened."""


def _start(command: list[str], output: int, log: int) -> int:
    reaper = os.getpid()
    die_with_reaper = _death_signal()
    server = os.fork()
    if server:
        return server
    try:
        die_with_reaper()
        # The reaper may have died before prctl() was called.
        if os.getppid() == reaper:
            # The reaper's own standard input is its life line; the server must not hold or read it.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(log, 2)
            # Python ignores SIGPIPE, and what is ignored is inherited through exec.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(command[0], command)  # noqa: S606 - no shell, on purpose
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _death_signal() -> Callable[[], object]:
    if sys.platform != "linux":
        return lambda: None
    try:
        # Loaded before the fork: the child does as little as possible before exec.
        import ctypes  # noqa: PLC0415 - some builds of Python lack it

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda: None
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _report(report: bytes) -> None:
    with contextlib.suppress(OSError):  # the program is gone; the server follows it
        os.write(sys.stdout.fileno(), report)


if __name__ == "__main__":
    _parent, _grace_seconds, _echoes, *_command = sys.argv[1:]
    Reaper(parent=int(_parent), grace=float(_grace_seconds), echo=_echoes == "echo").run(_command)
