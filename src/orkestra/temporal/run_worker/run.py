"""`run_worker()`: run workers until a signal, then drain, cancel, send spans and close.

The order of a stop is the hard part. Polling stops at the first signal; activities get their grace
period and are cancelled after it; spans are sent last, because the last activities make some. Where
work is left that nothing ends, the process ends itself: the threads of such activities would keep
it alive for ever.
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
from orkestra.temporal.connection import Connection, ManagedServiceClient
from orkestra.temporal.guard import unguarded_service
from orkestra.temporal.health import HealthReport, check_temporal_health
from orkestra.temporal.plugin import OrkestraPlugin
from orkestra.temporal.run_worker.monitor import HealthMonitor
from orkestra.temporal.run_worker.probes import Probes, serving
from orkestra.temporal.run_worker.supervisor import ProcessStatus, Stage, Supervisor

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_HEARTBEAT_SECONDS: Final = 1.0
_HEALTH_RETRY_SECONDS: Final = 1.0
_HEARTBEATS_PER_WATCHDOG: Final = 2  # as sd_watchdog_enabled(3) recommends


class WorkerExit(IntEnum):
    """Result of `run_worker()`, ready to be the exit code of the process.

    A second signal ends the process with 128 plus its number, as shells report it.
    """

    DRAINED = 0
    """Stopped by a signal or by `Worker.shutdown()`; everything in flight finished."""

    FAILED = 1
    """A worker failed; the cause is in the log."""

    NOT_STARTED = 2
    """The namespace or its search attribute is missing; nothing was polled."""

    TIMED_OUT = 124
    """Activities still ran after the grace period and the time to cancel them."""


async def run_worker(
    worker: Worker | Awaitable[Worker | Sequence[Worker]],
    *more: Worker,
    config: OrkestraConfig | None = None,
) -> int:
    """Run one or several workers until SIGTERM or SIGINT, and stop them in order.

    On a signal polling stops and activities in flight get `worker.graceful_shutdown_timeout` to
    finish, then they are cancelled and get `worker.cancellation_timeout`; then spans are sent,
    within `langfuse.flush_timeout`, and the connection that `create_worker` opened is closed. A
    second signal, or an activity that outlives all of this, ends the process at once with
    `os._exit()`, because the threads of such activities would keep it alive for ever.

    A worker that fails is restarted if `worker.restart` is set; otherwise all stop. If
    `worker.probes_address` is set, `/livez`, `/readyz` and `/metrics` are served there.

    Signals are handled only in the main thread; elsewhere use `Worker.shutdown()`.

    Args:
        worker: A worker that does not run yet. Pass `create_worker(...)` or `create_workers(...)`
            without awaiting it to answer signals and probes while it connects, too.
        more: Others to run beside it.
        config: The configuration; None means the one that the first worker was made with.

    Returns:
        A `WorkerExit`, ready for `SystemExit`.

    Raises:
        OrkestraError: The worker to await could not be made.
        ConfigurationError: `worker.probes_address` is not free.

    Example:
        ```python
        raise SystemExit(asyncio.run(main()))  # where main() returns await run_worker(worker)
        ```
    """
    if config is None and isinstance(worker, Worker):
        config = _config_of(worker)
    with stop_signals() as stop:
        return await _WorkerProcess(stop).run(worker, more, config)


class _WorkerProcess:
    """From the first signal handler to the exit code."""

    def __init__(self, stop: "StopSignals") -> None:
        self._stop = stop
        self._status = ProcessStatus()
        self._probes = Probes(self._status)
        self._config = OrkestraConfig()
        self._supervisors: list[Supervisor] = []
        self._connections: list[Connection] = []

    async def run(
        self,
        worker: Worker | Awaitable[Worker | Sequence[Worker]],
        more: Sequence[Worker],
        config: OrkestraConfig | None,
    ) -> int:
        async with AsyncExitStack() as stack:
            if config is not None:
                try:
                    await self._start_probes(stack, config)
                except OrkestraError:
                    # Without this, Python warns of a coroutine that was never awaited.
                    if asyncio.iscoroutine(worker):
                        worker.close()
                    raise
            created = [worker] if isinstance(worker, Worker) else await self._create(worker)
            if created is None:
                return WorkerExit.DRAINED
            workers = (*created, *more)
            if config is None:
                await self._start_probes(stack, _config_of(workers[0]))
            code = await self._run(workers)
            await self._clean_up(workers, code)
            return code

    async def _start_probes(self, stack: AsyncExitStack, config: OrkestraConfig) -> None:
        self._config = config
        self._status.liveness_timeout = config.worker.liveness_timeout
        stack.enter_context(serving(self._probes, config))
        await stack.enter_async_context(_in_background(self._send_heartbeats()))

    async def _create(
        self, creating: Awaitable[Worker | Sequence[Worker]]
    ) -> Sequence[Worker] | None:
        created = await self._unless_stopped(creating)
        return [created] if isinstance(created, Worker) else created

    async def _unless_stopped(self, work: Awaitable[Any]) -> Any:
        """Return the result of the work; None where a signal came first, which cancels it."""
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
        services = [unguarded_service(each.client) for each in workers]
        self._connections = [s.connection for s in services if isinstance(s, ManagedServiceClient)]
        problem = await self._unless_stopped(self._problem(workers))
        if problem is not None:
            _logger.error("%s", problem)
            return WorkerExit.NOT_STARTED
        # A signal cancels the check, which then has no problem to report either.
        if self._stop.first.is_set():
            return WorkerExit.DRAINED
        self._status.enter(Stage.RUNNING)
        runs = {asyncio.create_task(each.run()): each for each in self._supervisors}
        monitor = HealthMonitor(
            self._status, self._supervisors, search_attribute=self._search_attribute
        )
        async with _in_background(monitor.run(), *map(_warn_of_unowned, workers)):
            try:
                await self._until_stopped(runs)
            finally:
                drained = await self._drain(runs)
        self._status.enter(Stage.STOPPED, "stopped")
        if any(run.done() and not run.cancelled() and run.exception() for run in runs):
            return WorkerExit.FAILED
        return WorkerExit.DRAINED if drained else WorkerExit.TIMED_OUT

    async def _problem(self, workers: Sequence[Worker]) -> str | None:
        """Find a problem of a namespace that would make every task of its worker fail."""
        attribute = self._search_attribute
        for each in workers:
            report = await self._reachable_report(each.client, attribute)
            for check in report.problems:
                name, detail = check.name, check.detail
                return f"Worker for task queue {each.task_queue!r} not started: {name}: {detail}"
        return None

    @property
    def _search_attribute(self) -> str | None:
        tenancy = self._config.tenancy
        return tenancy.search_attribute if tenancy.mode != "off" else None

    async def _reachable_report(self, client: Client, attribute: str | None) -> HealthReport:
        """Check health until the server answers, for as long as connecting may take."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.temporal.connect_deadline.total_seconds()
        while True:
            report = await check_temporal_health(client, search_attribute=attribute)
            if report.reachable or loop.time() > deadline:
                return report
            await asyncio.sleep(_HEALTH_RETRY_SECONDS)

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
        """Shut all workers down and wait for them, for the second signal or the time-out."""
        shutdowns = [asyncio.create_task(each.shutdown()) for each in runs.values()]
        second = asyncio.create_task(self._stop.second.wait())
        everything = asyncio.create_task(_all_done(runs))
        await asyncio.wait(
            {everything, second},
            timeout=self._drain_timeout().total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in (second, everything, *shutdowns):
            task.cancel()
        return all(run.done() for run in runs)

    async def _clean_up(self, workers: Sequence[Worker], code: WorkerExit) -> None:
        """Close connections, or end the process where work is left that nothing ends."""
        if self._stop.second.is_set() or code is WorkerExit.TIMED_OUT:
            # By identity, because workers of one client share its plugin.
            for plugin in {id(p): p for each in workers if (p := _plugin_of(each))}.values():
                if not await plugin.flush():
                    timeout = self._config.langfuse.flush_timeout
                    _logger.warning("Some spans were not sent within %s", timeout)
            if self._stop.second.is_set():
                end_process(128 + self._stop.last_signal, "second signal")
            end_process(code, "activities outlived the grace period and their cancellation")
        for connection in self._connections:
            if connection.is_private:
                await connection.close()

    def _drain_timeout(self) -> timedelta:
        grace = max(each.grace for each in self._supervisors)
        config = self._config
        return grace + config.worker.cancellation_timeout + config.langfuse.flush_timeout

    async def _send_heartbeats(self) -> None:
        systemd = Systemd()
        pause = min(_HEARTBEAT_SECONDS, systemd.heartbeat_seconds or _HEARTBEAT_SECONDS)
        try:
            while True:
                self._status.note_heartbeat()
                systemd.notify(self._status)
                await asyncio.sleep(pause)
        finally:
            # A drain may have started and ended between two heartbeats.
            systemd.notify(self._status)


@asynccontextmanager
async def _in_background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run the coroutines beside the block, and cancel them at its end."""
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


class StopSignals:
    """Signals to stop, as events: the first asks for a drain, the second for an immediate end."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.last_signal = 0
        self._loop = asyncio.get_running_loop()

    @property
    def name(self) -> str:
        """Name of the last signal."""
        return signal.Signals(self.last_signal).name

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Note a signal; the interpreter calls this between two instructions."""
        self.last_signal = number
        event = self.second if self.first.is_set() else self.first
        # Setting the event directly would not wake a loop that waits for the network (T72).
        self._loop.call_soon_threadsafe(event.set)


@contextmanager
def stop_signals() -> Generator[StopSignals]:
    """Handle SIGTERM and SIGINT in the block.

    The handlers are the interpreter's, not the event loop's, which the SDK's core can starve.
    Process 1, as in a container, ignores signals without a handler.
    """
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        _logger.warning("run_worker() outside the main thread: SIGTERM and SIGINT are not handled")
        yield stop
        return
    previous = {number: signal.signal(number, stop.receive) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_process(code: int, why: str) -> None:
    """End the process now, with threads that would never end."""
    _logger.error("Ending the process with exit code %d: %s", code, why)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # sys.exit() would join the threads, and the core can abort at a normal exit (T36).
    os._exit(code)


class Systemd:
    """Notifications to systemd, for a service of `Type=notify`; no-ops elsewhere."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # systemd writes the NUL of an abstract socket as "@".
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._last_state = ""
        watchdog = environment.get("WATCHDOG_USEC", "")
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.heartbeat_seconds: float | None = None
        if watchdog.isdigit() and int(watchdog) and is_for_us and path:
            self.heartbeat_seconds = int(watchdog) / 1e6 / _HEARTBEATS_PER_WATCHDOG

    def notify(self, status: ProcessStatus) -> None:
        """Send what has changed, and that the event loop runs."""
        is_reached = status.stage is not Stage.RUNNING or status.is_ready
        # A newline would begin another variable of the message.
        reason = str(status.readiness().get("reason", "")).replace("\n", " ")
        state = f"STATUS={status.stage}{': ' if reason else ''}{reason}\n"
        if is_reached:
            state = _SYSTEMD_STATES[status.stage] + state
        self._send(("" if state == self._last_state else state) + "WATCHDOG=1")
        self._last_state = state

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(0)
            try:
                out.sendto(message.encode(), self._address)
            except OSError:
                return  # workers run on where systemd does not listen


_SYSTEMD_STATES: Final = {
    Stage.STARTING: "",
    Stage.RUNNING: "READY=1\n",
    Stage.DRAINING: "STOPPING=1\n",
    Stage.STOPPED: "STOPPING=1\n",
}
