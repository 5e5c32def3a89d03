"""Running workers until a signal: drain, cancel, flush, close, and an exit code that says which."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from types import FrameType
from typing import Final

from temporalio.worker import Worker

from orkestra.config import OrkestraConfig
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.health import check_temporal_health
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.unconfined import unconfined_service

_logger: Final = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class WorkerExit(IntEnum):
    """What `run_worker()` returns, ready to be the exit code of the process.

    A second signal ends the process with 128 plus its number, as shells report it.
    """

    DRAINED = 0
    """Stopped by a signal or by `Worker.shutdown()`, everything in flight came to an end."""

    FAILED = 1
    """A worker failed; the cause is in the log."""

    NOT_STARTED = 2
    """The namespace is missing, or its search attribute; nothing was polled."""

    TIMED_OUT = 124
    """Activities were still running after the grace period and the time to cancel them."""


async def run_worker(worker: Worker, *more: Worker) -> int:
    """Run one or several workers until SIGTERM or SIGINT, and stop them in order.

    On a signal polling stops and activities in flight get `worker.graceful_shutdown_timeout` to
    finish, then they are cancelled and get `worker.cancellation_timeout`; then traces are sent,
    within `langfuse.flush_timeout`, and the connection that `create_worker` opened is closed. A
    second signal, or an activity that outlives all of this, ends the process at once with
    `os._exit()`, because the threads of such activities would keep it alive for ever.

    Signals are handled only in the main thread; elsewhere use `Worker.shutdown()`.

    Args:
        worker: A worker that does not run yet.
        more: Others to run beside it; where one fails, all stop.

    Returns:
        A `WorkerExit`, ready for `SystemExit`.

    Example:
        ```python
        raise SystemExit(asyncio.run(main()))  # where main() returns await run_worker(worker)
        ```
    """
    workers = (worker, *more)
    config = _config_of(worker)
    with _stop_signals() as stop:
        for each in workers:
            if problem := await _problem(each, config):
                _logger.error("Worker of task queue %r not started: %s", each.task_queue, problem)
                return WorkerExit.NOT_STARTED
        runs = {asyncio.create_task(each.run(), name=each.task_queue): each for each in workers}
        code = WorkerExit.DRAINED
        try:
            code = await _until_stopped(runs, stop, _patience(workers, config))
        finally:
            await _wind_up(workers, config, stop, code)
    return code


class _Stop:
    """The signals that have come in, for the loop to wait on."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.last_signal = 0
        self._loop = asyncio.get_running_loop()

    def notice(self, number: int, _frame: FrameType | None = None) -> None:
        """Called by the interpreter, between two instructions of the main thread."""
        self.last_signal = number
        event = self.second if self.first.is_set() else self.first
        self._loop.call_soon_threadsafe(event.set)


@contextmanager
def _stop_signals() -> Generator[_Stop]:
    """Handlers of the interpreter, not of the loop, which can be starved by the SDK's core."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        _logger.warning("run_worker() outside the main thread: SIGTERM and SIGINT are not handled")
        yield stop
        return
    previous = {number: signal.signal(number, stop.notice) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


async def _until_stopped(
    runs: dict[asyncio.Task[None], Worker], stop: _Stop, patience: timedelta
) -> WorkerExit:
    stopping = asyncio.create_task(stop.first.wait())
    try:
        await asyncio.wait({*runs, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if stop.first.is_set():
        name = signal.Signals(stop.last_signal).name
        grace = max(_grace(each) for each in runs.values())
        _logger.info("%s: polling stops, activities in flight have %s to finish", name, grace)
    drained = await _drain(runs, stop, patience)
    failed = [run for run in runs if run.done() and not run.cancelled() and run.exception()]
    for run in failed:
        _logger.error("Worker of task queue %r failed", run.get_name(), exc_info=run.exception())
    if failed:
        return WorkerExit.FAILED
    return WorkerExit.DRAINED if drained else WorkerExit.TIMED_OUT


async def _drain(runs: dict[asyncio.Task[None], Worker], stop: _Stop, patience: timedelta) -> bool:
    """Shut all workers down and wait for them, the second signal or the end of patience."""
    shutdowns = [asyncio.create_task(w.shutdown()) for run, w in runs.items() if not run.done()]
    if not shutdowns:
        return True
    second = asyncio.create_task(stop.second.wait())
    everything = asyncio.create_task(_all_done(runs))
    timeout = patience.total_seconds()
    await asyncio.wait({everything, second}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    drained = everything.done()
    for task in (*shutdowns, everything):
        task.cancel()
    return drained


async def _all_done(runs: Collection[asyncio.Task[None]]) -> bool:
    await asyncio.wait(runs)
    return True


async def _wind_up(
    workers: tuple[Worker, ...], config: OrkestraConfig, stop: _Stop, code: WorkerExit
) -> None:
    """Close connections, or end the process where work is left that nothing else ends."""
    if stop.second.is_set() or code is WorkerExit.TIMED_OUT:
        for plugin in {id(p): p for each in workers if (p := _plugin_of(each))}.values():
            if not await plugin.flush():
                _logger.warning("Some spans were not sent within %s", config.langfuse.flush_timeout)
        if stop.second.is_set():
            _end_process(128 + stop.last_signal, "second signal")
        _end_process(code, "activities outlived the grace period and their cancellation")
    for each in workers:
        service = unconfined_service(each.client)
        if isinstance(service, ManagedServiceClient) and service.connection.is_private:
            await service.connection.close()


async def _problem(worker: Worker, config: OrkestraConfig) -> str | None:
    """What is wrong with the namespace that would make every task of the worker fail."""
    attribute = config.tenancy.search_attribute if config.tenancy.mode != "off" else None
    report = await check_temporal_health(worker.client, search_attribute=attribute)
    failed = (check for check in report.checks if check.ok is False)
    return next((f"{check.name}: {check.detail}" for check in failed), None)


def _end_process(code: int, why: str) -> None:
    _logger.error("Ending the process with exit code %d: %s", code, why)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _patience(workers: tuple[Worker, ...], config: OrkestraConfig) -> timedelta:
    grace = max(_grace(each) for each in workers)
    return grace + config.worker.cancellation_timeout + config.langfuse.flush_timeout


def _grace(worker: Worker) -> timedelta:
    config = worker.config()
    name: Final = "graceful_shutdown_timeout"
    return config[name] if name in config else timedelta()


def _plugin_of(worker: Worker) -> OrkestraPlugin | None:
    plugins = worker.client.config()["plugins"]
    return next((plugin for plugin in plugins if isinstance(plugin, OrkestraPlugin)), None)


def _config_of(worker: Worker) -> OrkestraConfig:
    plugin = _plugin_of(worker)
    return plugin.config if plugin else OrkestraConfig()
