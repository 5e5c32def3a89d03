"""The thread that a sink's records and requests go through, in order."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orkestra.langfuse.losses import Loss, Losses
from orkestra.tracing import SpanRecord

if TYPE_CHECKING:
    from orkestra.langfuse.pipeline import Pipeline

_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    """To send everything, and perhaps to close after it."""

    deadline: float
    is_last: bool
    done: Future[bool] = field(default_factory=Future[bool])


class Writer:
    """Opens the pipeline, which takes a second, and writes records to it."""

    def __init__(
        self,
        open_pipeline: "Callable[[], Pipeline]",
        write: "Callable[[Pipeline, SpanRecord], None]",
        losses: Losses,
        *,
        limit: int,
    ) -> None:
        """Start the thread.

        Args:
            open_pipeline: Makes the pipeline, in the thread.
            write: Writes one record to it, in the thread.
            losses: Where to count what is lost.
            limit: How many records may wait.
        """
        self.pipeline: Future[Pipeline | None] = Future()
        self._open = open_pipeline
        self._write = write
        self._losses = losses
        self._limit = limit
        self._items: deque[SpanRecord | _Request] = deque()
        self._records = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="orkestra-traces", daemon=True)
        self._thread.start()

    def put(self, record: SpanRecord) -> None:
        """Take a record, or count it as lost where too many wait."""
        with self._changed:
            is_room = self._records < self._limit and not self._is_closed
            if is_room:
                self._items.append(record)
                self._records += 1
                self._changed.notify()
        if not is_room:
            self._losses.count(Loss.QUEUE_FULL, 1, f"{self._limit} already wait to be written")

    def flush(self, timeout: timedelta, *, is_last: bool = False) -> Future[bool]:
        """Ask for everything taken so far to be sent.

        Args:
            timeout: How long it may take.
            is_last: Whether to let go of everything after it.

        Returns:
            Will say whether all was sent; later than the time-out, perhaps.
        """
        request = _Request(time.monotonic() + timeout.total_seconds(), is_last)
        with self._changed:
            if self._is_closed:
                request.done.set_result(True)
            else:
                self._is_closed = is_last
                self._items.append(request)
                self._changed.notify()
        return request.done

    def _run(self) -> None:
        pipeline = self._opened()
        is_open = True
        while is_open:
            item = self._next()
            if isinstance(item, SpanRecord):
                self._write_one(pipeline, item)
            else:
                is_open = not item.is_last
                self._answer(pipeline, item)

    def _next(self) -> "SpanRecord | _Request":
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            item = self._items.popleft()
            if isinstance(item, SpanRecord):
                self._records -= 1
            return item

    def _opened(self) -> "Pipeline | None":
        pipeline = None
        try:
            pipeline = self._open()
        except Exception:
            _logger.exception("Langfuse cannot be used: workflows go on untraced")
        self.pipeline.set_result(pipeline)
        return pipeline

    def _write_one(self, pipeline: "Pipeline | None", record: SpanRecord) -> None:
        if pipeline is None:
            self._losses.count(Loss.INTERNAL, 1, "Langfuse cannot be used")
            return
        try:
            self._write(pipeline, record)
        except Exception as error:  # noqa: BLE001 - one bad record must not end the thread
            self._losses.count(Loss.INTERNAL, 1, repr(error))

    def _answer(self, pipeline: "Pipeline | None", request: _Request) -> None:
        is_wanted = request.done.set_running_or_notify_cancel()
        is_sent = pipeline is None
        end_sdk = None
        try:
            if pipeline is not None:
                is_sent = pipeline.flush(request.deadline)
                end_sdk = pipeline.release() if request.is_last else None
        except Exception:
            _logger.exception("Flushing spans failed")
        if is_wanted:
            request.done.set_result(is_sent)
        if end_sdk is not None:
            end_sdk()
