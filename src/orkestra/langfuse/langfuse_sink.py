"""`LangfuseSink`: spans to one Langfuse project.

Making a sink does nothing yet, and importing this module imports neither Langfuse nor
OpenTelemetry, which takes a second. That happens in threads: in the exporter's, when the first span
comes, and in one that opens `orkestra.langfuse.observe`, when an activity runs or `start()` is
called.
"""

import asyncio
import atexit
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from orkestra.config import LangfuseSettings
from orkestra.errors import LangfuseUnavailableError, MissingExtraError
from orkestra.langfuse.attributes import (
    Attributes,
    Masker,
    Route,
    SpanAttributes,
    ThirdPartySpans,
)
from orkestra.langfuse.exporter import DropCounter, Item, Loss, Sender
from orkestra.tracing import Caller, CaptureLimits, FinishedSpan, Outcome, Span

if TYPE_CHECKING:
    from orkestra.langfuse.observe import AttemptSpan, Observing

_logger: Final = logging.getLogger(__name__)
_MAX_START_SECONDS: Final = 15.0
_MAX_OPEN_SECONDS: Final = 10.0
_INGESTION_SECONDS: Final = 3.0
"""Time after which Langfuse's API lists what it has accepted."""


class LangfuseSink:
    """Sends spans to one Langfuse project, in the background."""

    def __init__(
        self,
        settings: LangfuseSettings,
        *,
        route: Route | None = None,
        at_exit: Callable[[], None] | None = None,
    ) -> None:
        """Send to the project of the settings.

        Args:
            settings: Settings with both keys; `enabled` is for the caller to check.
            route: Finds the destination of a tenant's observations that are made outside of
                activities, and of what comes after this sink was closed; None means this sink.
            at_exit: Called when the interpreter exits; None means to wait for unsent spans.

        Raises:
            MissingExtraError: The Langfuse SDK is not installed.
        """
        require_langfuse()
        self._settings = settings
        self._route: Route = route or (lambda _: self)
        self._limits = limits_of(settings)
        self._sampled_below = round(settings.sample_rate * 2**64)
        # Not masked: the attributes that an attempt passes on are masked when they are sent.
        self._attributes = SpanAttributes(settings, Masker(None))
        self._drops = DropCounter()
        self._lock = threading.Lock()
        self._sender: Sender | None = None
        self._opening: Future[Observing] | None = None
        self._active_attempts = 0
        self._at_exit = at_exit or self._flush_at_exit
        self._has_unlisted_spans = False
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether attempts are running whose spans will be sent here."""
        return self._active_attempts > 0

    @property
    def settings(self) -> LangfuseSettings:
        """Settings of the project."""
        return self._settings

    @property
    def public_key(self) -> str:
        """Key of the project."""
        return self._settings.public_key or ""

    @property
    def limits(self) -> CaptureLimits:
        """How much of arguments and results is captured."""
        return self._limits

    @property
    def lost(self) -> Counter[Loss]:
        """Numbers of lost spans, by reason."""
        return self._drops.counts()

    @property
    def sent(self) -> int:
        """Number of spans that Langfuse has accepted."""
        return 0 if self._sender is None else self._sender.sent

    @property
    def waiting(self) -> int:
        """Number of spans that wait to be sent."""
        return 0 if self._sender is None else self._sender.waiting

    def start(self) -> None:
        """Prepare in the background, so that the first span need not wait. May be called again."""
        self._open_sender()
        self._open_observing()

    async def opened(self) -> None:
        """Prepare, and wait for it for some seconds at most. Never raises.

        A worker waits for this before it takes work, which would otherwise have to wait.
        """
        self.start()
        try:
            await self._wait_for_observing(_MAX_START_SECONDS)
        except Exception:
            _logger.exception("Activities run, but nothing can be observed inside of them")

    def emit(self, span: FinishedSpan) -> None:
        """Accept a finished span. Never blocks and never raises; lost spans are counted.

        Where this sink was closed, the tenant's present sink accepts it.
        """
        if self.offer(span):
            return
        present = self._route(span.span.tenant)
        if isinstance(present, LangfuseSink) and present is not self:
            present.emit(span)
        else:
            self._count_late(1)

    def offer(self, span: FinishedSpan) -> bool:
        """Accept a finished span; False where the sink was closed."""
        return not self.is_sampled(span.span) or self._put(span)

    def receive(self, spans: ThirdPartySpans) -> None:
        """Accept third-party spans; never blocks and never raises."""
        if self._put(spans):
            return
        present = self._route(spans.tenant)
        if present is None or present is self:
            self._count_late(spans.count)
        else:
            present.receive(spans)

    def is_sampled(self, span: Span) -> bool:
        """Decide by the trace id whether the trace is sent, in every process alike.

        It is the rule of the Langfuse SDK, OpenTelemetry's `TraceIdRatioBased`.
        """
        return int(span.trace_id[16:], 16) < self._sampled_below

    async def enter(self, span: Span) -> "ActiveAttempt | None":
        """Make the span of an activity's attempt the current one for the running task.

        Args:
            span: The attempt.

        Returns:
            The attempt, to be ended in the same task; None where it runs without a span.
        """
        attempt = ActiveAttempt(self, span)
        # Counted before anything is awaited: a sink that is busy is not closed to make room.
        with self._lock:
            self._active_attempts += 1
        try:
            if await self._wait_for_observing(_MAX_OPEN_SECONDS):
                attempt.enter(self._attributes.of_trace(span) if self.is_sampled(span) else None)
        except asyncio.CancelledError:
            with self._lock:
                self._active_attempts -= 1
            raise
        except Exception:
            _logger.exception("An activity runs, but nothing can be observed inside of it")
        return attempt

    def leave(self, span: FinishedSpan) -> None:
        """Accept the span of an attempt that `enter()` has begun."""
        with self._lock:
            self._active_attempts -= 1
        self.emit(span)

    async def caller(self, tenant: str | None) -> Caller | None:
        """Find the span that the running code is in; None where there is none.

        Args:
            tenant: Tenant for which a workflow is about to be started or signalled.
        """
        # Code that has not imported OpenTelemetry is in no span.
        if "opentelemetry.trace" not in sys.modules:
            return None
        try:
            if "langfuse" in sys.modules:
                self._open_observing()
            from orkestra.langfuse.observe import current_caller  # noqa: PLC0415 - OpenTelemetry

            return current_caller(self.public_key, tenant)
        except Exception:
            _logger.exception("The caller's span cannot be read: the workflow starts without it")
            return None

    async def project(self, tenant: str | None) -> "LangfuseSink":
        """Return this sink, the destination of every tenant's spans."""
        return self

    async def present(self, trace_id: str, timeout: timedelta) -> frozenset[str]:
        """Ask Langfuse for the span ids that it has of a trace.

        Waits first for spans of a flush that was late, because Langfuse does not list them yet.

        Args:
            trace_id: The trace, as 32 hexadecimal digits.
            timeout: Time limit of each step of a request.

        Raises:
            LangfuseUnavailableError: There is no answer, or those spans could not be sent.
        """
        if self._has_unlisted_spans:
            if not await self.flush(timeout):
                msg = f"spans from before still wait for Langfuse at {self._settings.base_url!r}"
                raise LangfuseUnavailableError(msg)
            await asyncio.sleep(_INGESTION_SECONDS)
            self._has_unlisted_spans = False
        from orkestra.langfuse.api import present_observations  # noqa: PLC0415 - HTTP client

        return await present_observations(self._settings, trace_id, timeout=timeout)

    async def flush(self, timeout: timedelta) -> bool:
        """Send all spans that wait, and return whether that was done in time.

        Args:
            timeout: How long to wait at most.
        """
        flushed = self.start_flush(timeout)
        is_sent = flushed is None or await _within(flushed, timeout)
        self._has_unlisted_spans |= not is_sent
        return is_sent

    def start_flush(self, timeout: timedelta) -> Future[bool] | None:
        """Flush without waiting for it; None where nothing was ever sent."""
        return None if self._sender is None else self._sender.flush(timeout)

    async def close(self, timeout: timedelta) -> bool:
        """Flush and release everything; may be called again.

        Args:
            timeout: How long to wait at most.

        Returns:
            Whether all spans were sent in time.
        """
        with self._lock:
            sender, opening, self._is_closed = self._sender, self._opening, True
        atexit.unregister(self._flush_at_exit)
        is_sent = sender is None or await _within(sender.flush(timeout, is_last=True), timeout)
        if sender is not None:
            sender.stop()
        if opening is not None:
            opening.add_done_callback(self._close_observing)
        return is_sent

    def _put(self, item: Item) -> bool:
        sender = self._open_sender()
        return sender is not None and sender.put(item)

    def _count_late(self, spans: int) -> None:
        self._drops.count(Loss.UNSENT, spans, "tracing was closed before they came")

    def _open_sender(self) -> Sender | None:
        if (sender := self._sender) is not None:
            return sender
        with self._lock:
            if self._sender is None and not self._is_closed:
                self._sender = Sender(self._settings, self._drops, self._gather_observed)
                atexit.unregister(self._at_exit)  # other sinks may share the function
                atexit.register(self._at_exit)
            return self._sender

    def _open_observing(self) -> "Future[Observing] | None":
        """Import and open what activities observe with, in a thread: it takes a second."""
        if (opening := self._opening) is not None:
            return opening
        with self._lock:
            if self._opening is None and not self._is_closed:
                self._opening = Future()
                threading.Thread(
                    target=self._observe,
                    args=(self._opening,),
                    name="orkestra-langfuse",
                    daemon=True,
                ).start()
            return self._opening

    def _observe(self, opening: "Future[Observing]") -> None:
        try:
            from orkestra.langfuse.observe import open_observing  # noqa: PLC0415 - Langfuse

            opening.set_result(open_observing(self._settings, self._route))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            opening.set_exception(error)

    async def _wait_for_observing(self, seconds: float) -> bool:
        opening = self._open_observing()
        if opening is None:
            return False
        if not opening.done():
            # Shielded, because others wait for the same future.
            waiting = asyncio.shield(asyncio.wrap_future(opening))
            await asyncio.wait_for(waiting, seconds)
        opening.result()
        return True

    def _gather_observed(self) -> None:
        opening = self._opening
        if opening is not None and opening.done() and opening.exception() is None:
            opening.result().flush()

    def _close_observing(self, opening: "Future[Observing]") -> None:
        if opening.exception() is None and (end := opening.result().close(self._route)) is not None:
            threading.Thread(target=end, name="orkestra-langfuse-end", daemon=True).start()

    def _flush_at_exit(self) -> None:
        flush_at_exit([self], self._settings.flush_timeout)


class ActiveAttempt:
    """An attempt of an activity while it runs.

    Its span is sent even where nothing could be made current. The OpenTelemetry half of it,
    `AttemptSpan`, is a class of its own because it needs OpenTelemetry at import time.
    """

    def __init__(self, sink: LangfuseSink, span: Span) -> None:
        self._sink = sink
        self._span = span
        self._active: AttemptSpan | None = None

    def enter(self, labels: Attributes | None) -> None:
        """Make the span current for OpenTelemetry and for the Langfuse SDK.

        Args:
            labels: Attributes that every span of the trace has; None where it is not sent.
        """
        from orkestra.langfuse.observe import AttemptSpan  # noqa: PLC0415 - OpenTelemetry

        active = AttemptSpan.of(self._span, labels, self._sink)
        active.enter()
        self._active = active

    def traced_pool(self, pool: Executor) -> Executor:
        """Wrap a process pool, so that the span is current in its processes, too."""
        if self._active is None:
            return pool
        from orkestra.langfuse.observe import TracedProcessPool  # noqa: PLC0415 - OpenTelemetry

        return TracedProcessPool(pool, self._active, self._sink.settings)

    def end(self, outcome: Outcome) -> None:
        """Leave the span and send it; never raises."""
        finished = FinishedSpan(span=self._span, outcome=outcome, end_ns=time.time_ns())
        try:
            if self._active is not None:
                finished = self._active.leave(finished)
        except Exception:
            _logger.exception("Attributes that an activity has set on its span were lost")
        self._sink.leave(finished)


def flush_at_exit(sinks: "Iterable[LangfuseSink]", timeout: timedelta) -> None:
    """Flush all sinks together when the interpreter exits.

    No thread can be started then, but those that run go on.
    """
    flushes = [flush for sink in sinks if (flush := sink.start_flush(timeout)) is not None]
    _, late = wait(flushes, timeout.total_seconds())
    if late:
        _logger.warning("Some spans were not sent within %s", timeout)


def limits_of(settings: LangfuseSettings) -> CaptureLimits:
    """Return how much of arguments and results the settings allow to capture."""
    return CaptureLimits(
        input=settings.capture_input,
        output=settings.capture_output,
        max_bytes=settings.max_value_bytes,
    )


def require_langfuse() -> None:
    """Check that the Langfuse SDK is installed, without importing it.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("langfuse") is None:
        raise MissingExtraError("Tracing to Langfuse", "langfuse")


async def _within(done: Future[bool], timeout: timedelta) -> bool:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), timeout.total_seconds())
    except TimeoutError:
        return False
