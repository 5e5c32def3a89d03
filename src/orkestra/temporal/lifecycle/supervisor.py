"""One worker that is made anew where it fails."""

import asyncio
import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

from temporalio.worker import Worker

from orkestra.temporal.lifecycle.status import WorkerStatus
from orkestra.temporal.threads import ActivityThreads

_logger: Final = logging.getLogger("orkestra.temporal.lifecycle")

_FIRST_PAUSE: Final = 1.0
_STEADY_AFTER: Final = 60.0
_TICK: Final = 0.02
_SAID_BY_THE_SDK: Final = "Worker failed, shutting down"


class Supervisor:
    """Runs a worker, and the ones that take its place.

    Args:
        worker: A worker that does not run yet.
        restart: Whether to make it anew where it fails.
        longest_pause: The longest pause before that.
    """

    def __init__(self, worker: Worker, *, restart: bool, longest_pause: timedelta) -> None:
        self.worker = worker
        self.status = WorkerStatus(worker.task_queue, worker.client.namespace)
        self._restart = restart
        self._longest_pause = longest_pause.total_seconds()
        self._stopping = asyncio.Event()

    @property
    def grace(self) -> timedelta:
        """How long its activities may go on after it was told to stop."""
        config = self.worker.config()
        name: Final = "graceful_shutdown_timeout"
        return config[name] if name in config else timedelta()

    async def run(self) -> None:
        """Run until `shutdown()`, or until the worker was shut down otherwise.

        Raises:
            Exception: The worker failed, and is not to be made anew.
        """
        pause = min(_FIRST_PAUSE, self._longest_pause)
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await self._run_once()
            except Exception as error:
                self.status.fault = f"failed: {type(error).__name__}: {error}"
                if not self._restart or self._stopping.is_set():
                    _log_failure(self.worker, error, "")
                    raise
                if asyncio.get_running_loop().time() - began > _STEADY_AFTER:
                    pause = min(_FIRST_PAUSE, self._longest_pause)
                _log_failure(self.worker, error, f"; made anew in {pause:g} s")
                # Its frames hold the old worker, which the core would not have beside a new one.
                traceback.clear_frames(error.__traceback__)
            if await self._is_stopped_within(pause):
                return None
            self._renew()
            pause = min(2 * pause, self._longest_pause)

    async def shutdown(self) -> None:
        """Stop polling, let activities end, and do not make another worker."""
        self._stopping.set()
        if self.worker.is_running:
            await self.worker.shutdown()

    async def _run_once(self) -> None:
        polling = asyncio.create_task(self._note_polling())
        stopping = asyncio.create_task(self._stop_when_told())
        try:
            with _unsaid_by_the_sdk():
                await self.worker.run()
        finally:
            polling.cancel()
            stopping.cancel()

    async def _note_polling(self) -> None:
        while not self.worker.is_running:  # noqa: ASYNC110 - the SDK has no event for it
            await asyncio.sleep(_TICK)
        self.status.fault = None

    async def _stop_when_told(self) -> None:
        """Also where the worker is told before it runs."""
        await self._stopping.wait()
        await self.worker.shutdown()

    async def _is_stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _renew(self) -> None:
        config = self.worker.config()
        threads = config["activity_executor"] if "activity_executor" in config else None
        if isinstance(threads, ActivityThreads):
            config["activity_executor"] = threads.renewed()
        del self.worker
        self.worker = Worker(**config)
        self.status.restarts += 1


def _log_failure(worker: Worker, error: Exception, what_now: str) -> None:
    _logger.error("Worker of task queue %r failed%s", worker.task_queue, what_now, exc_info=error)


@contextmanager
def _unsaid_by_the_sdk() -> Generator[None]:
    """The SDK logs a failure that it also raises; it is to be read once."""
    logger = logging.getLogger("temporalio.worker._worker")

    def is_news(record: logging.LogRecord) -> bool:
        return record.msg != _SAID_BY_THE_SDK

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
