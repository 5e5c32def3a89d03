"""Runs the worker, and runs it anew whenever its code changes."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, Final

from orkestra.cli.dev.reports import format_changed, format_broken, format_ended, format_running, format_unharmed, format_checked
from orkestra.cli.dev.log import Log
from orkestra.cli.dev.messages import Checked, Loaded, Running, Told
from orkestra.cli.dev.process import WorkerOptions, WorkerProcess
from orkestra.cli.dev.runner import BROKEN
from orkestra.cli.dev.watching import Watcher

_SLOW: Final = 0.5


class Supervisor:
    """Keeps one worker running on the code as it was last saved."""

    def __init__(self, options: WorkerOptions, watcher: Watcher, log: Log) -> None:
        """Prepare; nothing runs until `run()` does.

        Args:
            options: How workers are to run.
            watcher: Notices changes.
            log: Where everything is told.
        """
        self._options = options
        self._watcher = watcher
        self._log = log
        self._began = 0.0

    async def run(self) -> None:
        """Run until cancelled; the worker then finishes what it does."""
        worker: WorkerProcess | None = None
        try:
            while True:
                successor = await self._start()
                worker, predecessor = successor, worker
                if predecessor is not None:
                    await self._retire(predecessor)
                if not self._watcher.has_changes:
                    worker.go()
                    await self._until_changed(worker)
                await self._changed()
        finally:
            if worker is not None:
                await self._retire(worker)

    async def _start(self) -> WorkerProcess:
        self._began = time.monotonic()
        return await WorkerProcess.start(
            self._options, on_line=self._log.pass_on, on_message=self._hear
        )

    async def _retire(self, worker: WorkerProcess) -> None:
        ending = asyncio.create_task(worker.end(self._options.patience))
        try:
            done, _ = await asyncio.wait([ending], timeout=_SLOW)
            if not done:
                self._log.say("waiting for the worker to finish what it does")
            if not await asyncio.shield(ending):
                self._log.say("the worker did not finish in time and was killed", style="yellow")
        except asyncio.CancelledError:
            await worker.kill()
            await ending
            raise

    async def _until_changed(self, worker: WorkerProcess) -> None:
        """Wait for the next change; a worker that ends before has said why, or is told of."""
        change = asyncio.create_task(self._watcher.wait())
        end = asyncio.create_task(worker.wait())
        try:
            await asyncio.wait([change, end], return_when=asyncio.FIRST_COMPLETED)
            if end.done() and not change.done():
                if end.result() != BROKEN:
                    self._log.say(format_ended(end.result()), style="red")
                await change
        finally:
            await _cancelled(change, end)

    async def _changed(self) -> None:
        files = await self._watcher.next()
        _forget_bytecode(files)
        self._log.say(format_changed(files))

    def _hear(self, message: Told) -> None:
        match message:
            case Loaded():
                self._watcher.add_files(message.files)
                if message.trouble is not None:
                    self._log.say(format_broken(message.trouble), style="red")
            case Checked():
                if message.count or message.left_out:
                    style = "red" if message.count else "yellow"
                    self._log.say(format_checked(message, force=self._options.force), style=style)
                elif message.replayed:
                    self._log.say(format_unharmed(message.replayed))
            case Running():
                took = time.monotonic() - self._began
                self._log.say(format_running(message, took), style="green")


def _forget_bytecode(files: Sequence[Path]) -> None:
    """Python tells stale bytecode by the source's size and second: two edits can share both."""
    for file in files:
        Path(cache_from_source(file)).unlink(missing_ok=True)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_to_end(*works: Coroutine[Any, Any, Any]) -> None:
    """Do several things until the first of them ends or fails, and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancelled(*tasks)
