"""`run_worker()`: workers until a signal; then drain, cancel, flush and close.

SIGTERM and SIGINT as events: the first asks to stop in order, the second to stop at once.

How a process of workers ends.

What systemd is told by a service of `Type=notify`; nothing where it did not start us.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Collection,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from enum import IntEnum
from types import FrameType
from typing import Any, Final

from temporalio.client import Client
from temporalio.worker import Worker

from orkestra.config import OrkestraConfig
from orkestra.errors import OrkestraError
from orkestra.temporal.admin import warn_of_unowned
from orkestra.temporal.connection import ManagedServiceClient
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.health import HealthReport, check_temporal_health
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.run_worker.monitor import Watch
from orkestra.temporal.run_worker.probes import Probes, serving
from orkestra.temporal.run_worker.supervisor import Stage, Status, Supervisor

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """The signals that have come in, for the loop to wait on."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.last_signal = 0
        self._loop = asyncio.get_running_loop()

    @property
    def name(self) -> str:
        """The last signal's name."""
        return signal.Signals(self.last_signal).name

    def notice(self, number: int, _frame: FrameType | None = None) -> None:
        """Called by the interpreter, between two instructions of the main thread."""
        self.last_signal = number
        event = self.second if self.first.is_set() else self.first
        self._loop.call_soon_threadsafe(event.set)


@contextmanager
def stop_signals() -> Generator[StopSignals]:
    """Handlers of the interpreter, not of the loop, which can be starved by the SDK's core.

    A process with the number 1, as in a container, ignores signals that it has no handler for.
    """
    stop = StopSignals()
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


def end_process(code: int, why: str) -> None:
    """End the process now, threads that never end included."""
    _logger.error("Ending the process with exit code %d: %s", code, why)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


_BEAT: Final = 1.0


async def run_worker(
    worker: Worker | Awaitable[Worker | Sequence[Worker]],
    *more: Worker,
    config: OrkestraConfig | None = None,
) -> int:
    """Run one or several workers until SIGTERM or SIGINT, and stop them in order.

    On a signal polling stops and activities in flight get `worker.graceful_shutdown_timeout` to
    finish, then they are cancelled and get `worker.cancellation_timeout`; then traces are sent,
    within `langfuse.flush_timeout`, and the connection that `create_worker` opened is closed. A
    second signal, or an activity that outlives all of this, ends the process at once with
    `os._exit()`, because the threads of such activities would keep it alive for ever.

    A worker that fails is made anew where `worker.restart` says so; otherwise all stop. Where
    `worker.probes_address` is set, `/livez`, `/readyz` and `/metrics` are served there.

    Signals are handled only in the main thread; elsewhere use `Worker.shutdown()`.

    Args:
        worker: A worker that does not run yet. Give `create_worker(...)` or `create_workers(...)`
            without awaiting it, and signals and probes are answered while it connects, too.
        more: Others to run beside it.
        config: The configuration; None takes the one that the first worker was made with.

    Returns:
        A `WorkerExit`, ready for `SystemExit`.

    Raises:
        OrkestraError: The worker to be awaited could not be made.
        ConfigurationError: `worker.probes_address` cannot be listened on.

    Example:
        ```python
        raise SystemExit(asyncio.run(main()))  # where main() returns await run_worker(worker)
        ```
    """
    if config is None and isinstance(worker, Worker):
        config = _config_of(worker)
    with stop_signals() as stop:
        return await _Life(stop).run(worker, more, config)


class _Life:
    """From the first signal handler to the exit code."""

    def __init__(self, stop: StopSignals) -> None:
        self._stop = stop
        self._status = Status()
        self._probes = Probes(self._status)
        self._config = OrkestraConfig()
        self._supervisors: list[Supervisor] = []

    async def run(
        self,
        worker: Worker | Awaitable[Worker | Sequence[Worker]],
        more: Sequence[Worker],
        config: OrkestraConfig | None,
    ) -> int:
        async with AsyncExitStack() as stack:
            if config is not None:
                try:
                    await self._open(stack, config)
                except OrkestraError:
                    if asyncio.iscoroutine(worker):
                        worker.close()
                    raise
            made = [worker] if isinstance(worker, Worker) else await self._made(worker)
            if made is None:
                return WorkerExit.DRAINED
            workers = (*made, *more)
            if config is None:
                await self._open(stack, _config_of(workers[0]))
            code = await self._run(workers)
            await self._wind_up(workers, code)
            return code

    async def _open(self, stack: AsyncExitStack, config: OrkestraConfig) -> None:
        self._config = config
        self._status.liveness_timeout = config.worker.liveness_timeout
        stack.enter_context(serving(self._probes, config))
        await stack.enter_async_context(_in_background(self._beat()))

    async def _made(self, making: Awaitable[Worker | Sequence[Worker]]) -> Sequence[Worker] | None:
        made = await self._unless_stopped(making)
        return [made] if isinstance(made, Worker) else made

    async def _unless_stopped(self, work: Awaitable[Any]) -> Any:
        """What the work results in, or None where a signal came first, which cancels it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stop.first.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        return None if working.cancelled() else working.result()

    async def _run(self, workers: Sequence[Worker]) -> WorkerExit:
        settings = self._config.worker
        self._supervisors = [
            Supervisor(each, restart=settings.restart, longest_pause=settings.restart_longest_pause)
            for each in workers
        ]
        self._status.workers = tuple(each.status for each in self._supervisors)
        self._status.reason = "checking the namespace"
        self._probes.workers = workers
        problem = await self._unless_stopped(self._problem(workers))
        if problem is not None:
            _logger.error("%s", problem)
            return WorkerExit.NOT_STARTED
        if self._stop.first.is_set():
            return WorkerExit.DRAINED
        self._status.enter(Stage.RUNNING)
        runs = {asyncio.create_task(each.run()): each for each in self._supervisors}
        watch = Watch(self._status, self._supervisors, search_attribute=self._search_attribute)
        async with _in_background(watch.run(), *map(_warn_of_unowned, workers)):
            try:
                await self._until_stopped(runs)
            finally:
                drained = await self._drain(runs)
        self._status.enter(Stage.STOPPED, "stopped")
        if any(run.done() and not run.cancelled() and run.exception() for run in runs):
            return WorkerExit.FAILED
        return WorkerExit.DRAINED if drained else WorkerExit.TIMED_OUT

    async def _problem(self, workers: Sequence[Worker]) -> str | None:
        """What is wrong with a namespace that would make every task of its worker fail."""
        attribute = self._search_attribute
        for each in workers:
            report = await self._healthy_or_late(each.client, attribute)
            for check in report.problems:
                name, detail = check.name, check.detail
                return f"Worker of task queue {each.task_queue!r} not started: {name}: {detail}"
        return None

    @property
    def _search_attribute(self) -> str | None:
        tenancy = self._config.tenancy
        return tenancy.search_attribute if tenancy.mode != "off" else None

    async def _healthy_or_late(self, client: Client, attribute: str | None) -> HealthReport:
        """Look until the server answers, as when connecting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.temporal.connect_deadline.total_seconds()
        while True:
            report = await check_temporal_health(client, search_attribute=attribute)
            if report.reachable or loop.time() > deadline:
                return report
            await asyncio.sleep(_BEAT)

    async def _until_stopped(self, runs: Collection[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(self._stop.first.wait())
        try:
            await asyncio.wait({*runs, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        reason = "a worker has stopped"
        if self._stop.first.is_set():
            grace = max(each.grace for each in self._supervisors)
            reason = (
                f"{self._stop.name}: polling stops, activities in flight have {grace} to finish"
            )
        self._status.enter(Stage.DRAINING, reason)
        _logger.info("%s", reason)

    async def _drain(self, runs: dict[asyncio.Task[None], Supervisor]) -> bool:
        """Shut all workers down and wait for them, the second signal or the end of patience."""
        shutdowns = [asyncio.create_task(each.shutdown()) for each in runs.values()]
        second = asyncio.create_task(self._stop.second.wait())
        everything = asyncio.create_task(_all_done(runs))
        await asyncio.wait(
            {everything, second},
            timeout=self._patience().total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in (second, everything, *shutdowns):
            task.cancel()
        return all(run.done() for run in runs)

    async def _wind_up(self, workers: Sequence[Worker], code: WorkerExit) -> None:
        """Close connections, or end the process where work is left that nothing else ends."""
        if self._stop.second.is_set() or code is WorkerExit.TIMED_OUT:
            for plugin in {id(p): p for each in workers if (p := _plugin_of(each))}.values():
                if not await plugin.flush():
                    timeout = self._config.langfuse.flush_timeout
                    _logger.warning("Some spans were not sent within %s", timeout)
            if self._stop.second.is_set():
                end_process(128 + self._stop.last_signal, "second signal")
            end_process(code, "activities outlived the grace period and their cancellation")
        for each in workers:
            service = unguarded_service(each.client)
            if isinstance(service, ManagedServiceClient) and service.connection.is_private:
                await service.connection.close()

    def _patience(self) -> timedelta:
        grace = max(each.grace for each in self._supervisors)
        config = self._config
        return grace + config.worker.cancellation_timeout + config.langfuse.flush_timeout

    async def _beat(self) -> None:
        systemd = Systemd()
        pause = min(_BEAT, systemd.watchdog_seconds or _BEAT)
        try:
            while True:
                self._status.beat()
                systemd.tell(self._status)
                await asyncio.sleep(pause)
        finally:
            # A drain may have begun and ended between two beats.
            systemd.tell(self._status)


@asynccontextmanager
async def _in_background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run beside the block, and no longer."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _warn_of_unowned(worker: Worker) -> None:
    if _plugin_of(worker) is not None:
        await warn_of_unowned(worker.client)


async def _all_done(runs: Collection[asyncio.Task[None]]) -> None:
    await asyncio.wait(runs)


def _plugin_of(worker: Worker) -> OrkestraPlugin | None:
    plugins = worker.client.config()["plugins"]
    return next((plugin for plugin in plugins if isinstance(plugin, OrkestraPlugin)), None)


def _config_of(worker: Worker) -> OrkestraConfig:
    plugin = _plugin_of(worker)
    return plugin.config if plugin else OrkestraConfig()


_SHARE_OF_WATCHDOG: Final = 2


class Systemd:
    """The socket that `NOTIFY_SOCKET` names.

    Args:
        environment: The process's environment.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._told = ""
        watchdog = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds: float | None = None
        if watchdog.isdigit() and int(watchdog) and is_ours and path:
            self.watchdog_seconds = int(watchdog) / 1e6 / _SHARE_OF_WATCHDOG

    def tell(self, status: Status) -> None:
        """Say what has changed, and that the event loop runs."""
        words = _WORDS[status.stage] if status.stage is not Stage.RUNNING or status.is_ready else ""
        reason = str(status.readiness().get("reason", "")).replace("\n", " ")
        told = f"{words}STATUS={status.stage}{': ' if reason else ''}{reason}\n"
        self._send(("" if told == self._told else told) + "WATCHDOG=1")
        self._told = told

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(0)
            try:
                out.sendto(message.encode(), self._address)
            except OSError:
                return  # a manager that does not listen is no reason to stop working


_WORDS: Final = {
    Stage.STARTING: "",
    Stage.RUNNING: "READY=1\n",
    Stage.DRAINING: "STOPPING=1\n",
    Stage.STOPPED: "STOPPING=1\n",
}
