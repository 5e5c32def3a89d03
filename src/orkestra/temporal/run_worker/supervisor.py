"""One worker that is restarted when it fails, and the status of all workers for the probes.

The event loop of the workers writes the status; the threads of the probes read it.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from temporalio.worker import Worker

from orkestra.errors import ConnectionClosedError
from orkestra.temporal._sdk import discard_core_worker, without_sdk_failure_log
from orkestra.temporal.plugin import ActivityThreadPool

_logger: Final = logging.getLogger("orkestra.temporal.run_worker")

_FIRST_PAUSE_SECONDS: Final = 1.0
_STEADY_RUN_SECONDS: Final = 60.0
_CANCELLATION_TIMEOUT: Final = timedelta(seconds=10)
_STARTED_CHECK_SECONDS: Final = 0.02


class Supervisor:
    """Runner of one worker and of its replacements, which have its options."""

    def __init__(self, worker: Worker, *, restart: bool, longest_pause: timedelta) -> None:
        self.worker = worker
        self.client = worker.client
        self.grace = _grace(worker)
        self.status = WorkerStatus(
            worker.task_queue,
            worker.client.namespace,
            worker.client.service_client.config.target_host,
        )
        self._worker: Worker | None = worker
        self._config = worker.config()
        self._restart = restart
        self._longest_pause = longest_pause.total_seconds()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until `shutdown()`, or until the worker was shut down otherwise.

        Raises:
            Exception: The worker failed, and is not restarted.
        """
        first_pause = pause = min(_FIRST_PAUSE_SECONDS, self._longest_pause)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                return await self._run_once(self._worker or self._new_worker())
            except Exception as error:
                self.status.fault = f"failed: {_first_line(error)}"
                # A closed connection does not open again, so a restart cannot help.
                is_closed = isinstance(error, ConnectionClosedError)
                is_last = is_closed or not self._restart or self._stopping.is_set()
                # After a steady run this is a new failure, so the pauses begin from the shortest.
                if loop.time() - started > _STEADY_RUN_SECONDS:
                    pause = first_pause
                next_step = "" if is_last else f"; restarting in {pause:g} s"
                queue = self.status.task_queue
                _logger.exception("Worker for task queue %r failed%s", queue, next_step)
                if is_last:
                    raise
                await self._discard()
            if await self._is_stopped_within(pause):
                return None
            pause = min(2 * pause, self._longest_pause)

    async def shutdown(self) -> None:
        """Stop polling, let activities finish, and do not restart."""
        self._stopping.set()
        # shutdown() of a worker that never ran waits for ever (T34).
        if self._worker is not None and self._worker.is_running:
            await self._worker.shutdown()

    async def _run_once(self, worker: Worker) -> None:
        polling = asyncio.create_task(self._note_start(worker))
        stopping = asyncio.create_task(self._shut_down_when_stopping(worker))
        try:
            with without_sdk_failure_log():
                await worker.run()
        finally:
            polling.cancel()
            stopping.cancel()
            await asyncio.wait({polling, stopping})

    async def _note_start(self, worker: Worker) -> None:
        while not worker.is_running:  # noqa: ASYNC110 - the SDK has no event for it
            await asyncio.sleep(_STARTED_CHECK_SECONDS)
        self.status.fault = None

    async def _shut_down_when_stopping(self, worker: Worker) -> None:
        """Shut the worker down, also where the stop came before its start."""
        await self._stopping.wait()
        await worker.shutdown()

    async def _is_stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _discard(self) -> None:
        """Free the failed worker's place in the core."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.is_running:  # a plugin failed around it
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    worker.shutdown(), (self.grace + _CANCELLATION_TIMEOUT).total_seconds()
                )
        discard_core_worker(worker)

    def _new_worker(self) -> Worker:
        config = self._config.copy()
        threads = config["activity_executor"] if "activity_executor" in config else None
        if isinstance(threads, ActivityThreadPool):
            config["activity_executor"] = threads.new()
        self._worker = Worker(**config)
        self.status.restarts += 1
        return self._worker


def _first_line(error: Exception) -> str:
    """Leave out the stack with which the core's messages end."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _grace(worker: Worker) -> timedelta:
    config = worker.config()
    name: Final = "graceful_shutdown_timeout"
    return config[name] if name in config else timedelta()


class Stage(StrEnum):
    """Stage of the process."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass
class WorkerStatus:
    """Status of one worker.

    Attributes:
        fault: Reason why it does not run; None where it does.
        unreachable: Reason why the server does not serve its namespace; None where it does.
        trouble: Reason why it takes no work although it runs; None where it does.
        restarts: Number of restarts.
    """

    task_queue: str
    namespace: str
    address: str
    fault: str | None = "not started yet"
    unreachable: str | None = None
    trouble: str | None = None
    restarts: int = 0

    @property
    def problem(self) -> str | None:
        """Reason why it takes no work; None where it does."""
        return self.fault or self.trouble


@dataclass
class ProcessStatus:
    """Status of the process."""

    liveness_timeout: timedelta = timedelta(seconds=30)  # the event loop then counts as stuck
    stage: Stage = Stage.STARTING
    reason: str = "connecting"
    workers: tuple[WorkerStatus, ...] = ()
    _last_heartbeat: float = field(default_factory=time.monotonic)

    def note_heartbeat(self) -> None:
        """Note that the event loop runs."""
        self._last_heartbeat = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._last_heartbeat

    @property
    def is_alive(self) -> bool:
        """True where the event loop runs."""
        return self.silence < self.liveness_timeout.total_seconds()

    @property
    def is_ready(self) -> bool:
        """True where every worker takes work."""
        return self.stage is Stage.RUNNING and not any(each.problem for each in self.workers)

    def enter(self, stage: Stage, reason: str = "") -> None:
        """Change the stage."""
        self.stage, self.reason = stage, reason

    def liveness(self) -> dict[str, Any]:
        """Make the body of `/livez`."""
        body: dict[str, Any] = {"alive": self.is_alive, "stage": self.stage}
        if not self.is_alive:
            body["reason"] = f"the event loop has not run for {self.silence:.1f} s"
        return body

    def readiness(self) -> dict[str, Any]:
        """Make the body of `/readyz`."""
        body: dict[str, Any] = {"ready": self.is_ready, "stage": self.stage}
        if not self.is_ready:
            problems = (f"{w.task_queue!r}: {w.problem}" for w in self.workers if w.problem)
            body["reason"] = self.reason or "; ".join(problems)
        body["workers"] = [
            {
                "task_queue": worker.task_queue,
                "namespace": worker.namespace,
                "ready": self.stage is Stage.RUNNING and worker.problem is None,
                "problem": worker.problem,
                "restarts": worker.restarts,
            }
            for worker in self.workers
        ]
        return body
