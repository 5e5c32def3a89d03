"""One worker that is made anew where it fails.

What is known of the workers right now: written by their event loop, read by any thread.
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

_FIRST_PAUSE: Final = 1.0
_STEADY_AFTER: Final = 60.0
_CANCELLING: Final = timedelta(seconds=10)
_TICK: Final = 0.02


class Supervisor:
    """Runs a worker, and the ones that take its place.

    Attributes:
        worker: The first of them, for what it was made with.
        client: The client of all of them.
        grace: How long activities may go on after the worker was told to stop.
        status: What is known of it.

    Args:
        worker: A worker that does not run yet.
        restart: Whether to make it anew where it fails.
        longest_pause: The longest pause before that.
    """

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
            Exception: The worker failed, and is not to be made anew.
        """
        first_pause = pause = min(_FIRST_PAUSE, self._longest_pause)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                return await self._run_once(self._worker or self._made_anew())
            except Exception as error:
                self.status.fault = f"failed: {_first_line(error)}"
                is_closed = isinstance(error, ConnectionClosedError)
                is_last = is_closed or not self._restart or self._stopping.is_set()
                if loop.time() - began > _STEADY_AFTER:
                    pause = first_pause
                what_now = "" if is_last else f"; made anew in {pause:g} s"
                queue = self.status.task_queue
                _logger.exception("Worker of task queue %r failed%s", queue, what_now)
                if is_last:
                    raise
                await self._let_go()
            if await self._is_stopped_within(pause):
                return None
            pause = min(2 * pause, self._longest_pause)

    async def shutdown(self) -> None:
        """Stop polling, let activities end, and do not make another worker."""
        self._stopping.set()
        if self._worker is not None and self._worker.is_running:
            await self._worker.shutdown()

    async def _run_once(self, worker: Worker) -> None:
        polling = asyncio.create_task(self._note_polling(worker))
        stopping = asyncio.create_task(self._stop_when_told(worker))
        try:
            with without_sdk_failure_log():
                await worker.run()
        finally:
            polling.cancel()
            stopping.cancel()
            await asyncio.wait({polling, stopping})

    async def _note_polling(self, worker: Worker) -> None:
        while not worker.is_running:  # noqa: ASYNC110 - the SDK has no event for it
            await asyncio.sleep(_TICK)
        self.status.fault = None

    async def _stop_when_told(self, worker: Worker) -> None:
        """Also where the worker is told before it runs."""
        await self._stopping.wait()
        await worker.shutdown()

    async def _is_stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _let_go(self) -> None:
        """End what is left of the failed worker."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.is_running:  # a plugin failed around it
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    worker.shutdown(), (self.grace + _CANCELLING).total_seconds()
                )
        discard_core_worker(worker)

    def _made_anew(self) -> Worker:
        config = self._config.copy()
        threads = config["activity_executor"] if "activity_executor" in config else None
        if isinstance(threads, ActivityThreadPool):
            config["activity_executor"] = threads.new()
        self._worker = Worker(**config)
        self.status.restarts += 1
        return self._worker


def _first_line(error: Exception) -> str:
    """The core's messages go on with a stack of its own."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _grace(worker: Worker) -> timedelta:
    config = worker.config()
    name: Final = "graceful_shutdown_timeout"
    return config[name] if name in config else timedelta()


class Stage(StrEnum):
    """How far the process has come."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass
class WorkerStatus:
    """One worker.

    Attributes:
        task_queue: The queue that it polls.
        namespace: Its namespace.
        address: The server.
        fault: Why it does not run; None where it does.
        unreachable: Why the server does not serve its namespace; None where it does.
        trouble: Why it takes no work although it runs; None where it does.
        restarts: How often it was made anew.
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
        """Why it takes no work; None where it does."""
        return self.fault or self.trouble


@dataclass
class Status:
    """The process.

    Attributes:
        liveness_timeout: After what silence of the event loop it counts as stuck.
        stage: How far it has come.
        reason: What there is to say of the stage.
        workers: The workers, as soon as they are made.
    """

    liveness_timeout: timedelta = timedelta(seconds=30)
    stage: Stage = Stage.STARTING
    reason: str = "connecting"
    workers: tuple[WorkerStatus, ...] = ()
    _last_beat: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """The event loop runs."""
        self._last_beat = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the event loop ran last."""
        return time.monotonic() - self._last_beat

    @property
    def is_alive(self) -> bool:
        """Whether the event loop runs."""
        return self.silence < self.liveness_timeout.total_seconds()

    @property
    def is_ready(self) -> bool:
        """Whether every worker takes work."""
        return self.stage is Stage.RUNNING and not any(each.problem for each in self.workers)

    def enter(self, stage: Stage, reason: str = "") -> None:
        """Come to another stage."""
        self.stage, self.reason = stage, reason

    def liveness(self) -> dict[str, Any]:
        """The body of `/livez`."""
        told: dict[str, Any] = {"alive": self.is_alive, "stage": self.stage}
        if not self.is_alive:
            told["reason"] = f"the event loop has not run for {self.silence:.1f} s"
        return told

    def readiness(self) -> dict[str, Any]:
        """The body of `/readyz`."""
        told: dict[str, Any] = {"ready": self.is_ready, "stage": self.stage}
        if not self.is_ready:
            problems = (f"{w.task_queue!r}: {w.problem}" for w in self.workers if w.problem)
            told["reason"] = self.reason or "; ".join(problems)
        told["workers"] = [
            {
                "task_queue": worker.task_queue,
                "namespace": worker.namespace,
                "ready": self.stage is Stage.RUNNING and worker.problem is None,
                "problem": worker.problem,
                "restarts": worker.restarts,
            }
            for worker in self.workers
        ]
        return told
