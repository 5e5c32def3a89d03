"""`LangfuseSink`: a `TraceSink` that sends to Langfuse."""

import asyncio
import atexit
import logging
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orkestra.config import LangfuseSettings
from orkestra.langfuse.extra import require_langfuse
from orkestra.langfuse.losses import Loss, Losses
from orkestra.langfuse.writer import Writer
from orkestra.tracing import Caller, CaptureLimits, LiveSpan, Span, SpanRecord

if TYPE_CHECKING:
    from orkestra.langfuse.naming import Describer
    from orkestra.langfuse.pipeline import Pipeline

_logger: Final = logging.getLogger(__name__)
_MAX_OPENING_SECONDS: Final = 15.0


class LangfuseSink:
    """Sends spans to one Langfuse project.

    Making one does nothing yet: the Langfuse SDK is imported, and threads are started, when the
    first span comes or `start()` is called. Sinks of one public key in one process share all of it.
    """

    def __init__(self, settings: LangfuseSettings) -> None:
        """Send to the project of the settings.

        Args:
            settings: With both keys; whether tracing is on is for the caller to ask.

        Raises:
            MissingExtraError: The Langfuse SDK is not installed.
        """
        require_langfuse()
        self._settings = settings
        self._limits = CaptureLimits(
            input=settings.capture_input,
            output=settings.capture_output,
            max_bytes=settings.max_value_bytes,
        )
        self._losses = Losses()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._describer: Describer | None = None
        self._is_closed = False

    @property
    def limits(self) -> CaptureLimits:
        """See base class."""
        return self._limits

    @property
    def lost(self) -> Counter[Loss]:
        """How many spans were lost, by reason."""
        pipeline = self._pipeline()
        return self._losses.counts() + (pipeline.losses.counts() if pipeline else Counter())

    def start(self) -> None:
        """See base class."""
        with self._lock:
            if self._writer is None and not self._is_closed:
                atexit.register(self._flush_at_exit)
                self._writer = Writer(
                    self._open, self._write, self._losses, limit=self._settings.queue_size
                )

    def emit(self, record: SpanRecord) -> None:
        """See base class."""
        self.start()
        if self._writer is not None:
            self._writer.put(record)

    async def enter(self, span: Span) -> LiveSpan | None:
        """See base class."""
        try:
            self.start()
            if self._writer is None:
                return None
            opening = self._writer.pipeline
            if not opening.done():
                waiting = asyncio.shield(asyncio.wrap_future(opening))
                await asyncio.wait_for(waiting, _MAX_OPENING_SECONDS)
            return self._entered(span)
        except Exception as error:  # noqa: BLE001 - the work must go on, untraced if need be
            self._losses.count(Loss.INTERNAL, 1, repr(error))
            return None

    def caller(self, tenant: str | None) -> Caller | None:
        """See base class."""
        if "langfuse" not in sys.modules:
            return None
        try:
            self.start()
            from orkestra.langfuse.origin import caller_in  # noqa: PLC0415 - imports OpenTelemetry

            return caller_in(self._settings.public_key or "", tenant)
        except Exception:
            _logger.exception("The caller's observation cannot be read")
            return None

    async def flush(self, timeout: timedelta) -> bool:
        """See base class."""
        writer = self._writer
        return writer is None or await _within(writer.flush(timeout), timeout)

    async def close(self, timeout: timedelta) -> bool:
        """See base class."""
        with self._lock:
            writer, self._is_closed = self._writer, True
        atexit.unregister(self._flush_at_exit)
        return writer is None or await _within(writer.flush(timeout, is_last=True), timeout)

    def _open(self) -> "Pipeline":
        from orkestra.langfuse.masking import Masker  # noqa: PLC0415 - imports Langfuse
        from orkestra.langfuse.naming import Describer  # noqa: PLC0415
        from orkestra.langfuse.pipeline import open_pipeline  # noqa: PLC0415

        self._describer = Describer(self._settings, Masker(self._settings.mask))
        return open_pipeline(self._settings)

    def _write(self, pipeline: "Pipeline", record: SpanRecord) -> None:
        from orkestra.langfuse.live import write  # noqa: PLC0415 - imports Langfuse

        if self._describer is not None:
            write(pipeline, self._describer, record)

    def _entered(self, span: Span) -> LiveSpan | None:
        from orkestra.langfuse.live import CurrentSpan  # noqa: PLC0415 - imports Langfuse

        pipeline = self._pipeline()
        if pipeline is None or self._describer is None:
            return None
        return CurrentSpan(pipeline, self._describer, span)

    def _pipeline(self) -> "Pipeline | None":
        writer = self._writer
        return writer.pipeline.result() if writer and writer.pipeline.done() else None

    def _flush_at_exit(self) -> None:
        """Threads cannot be started any more, but those that run still do."""
        timeout = self._settings.flush_timeout
        if self._writer is not None:
            try:
                self._writer.flush(timeout).result(timeout.total_seconds())
            except FutureTimeoutError:
                _logger.warning("Some spans were not sent within %s", timeout)


async def _within(done: Future[bool], timeout: timedelta) -> bool:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), timeout.total_seconds())
    except TimeoutError:
        return False
