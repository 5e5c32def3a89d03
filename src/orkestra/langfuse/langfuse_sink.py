"""`LangfuseSink`: a `TraceSink` that sends to one Langfuse project.

Whether the optional dependency is there, without importing it.
"""

import asyncio
import atexit
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from orkestra.config import LangfuseSettings
from orkestra.errors import LangfuseUnavailableError, MissingExtraError
from orkestra.langfuse.attempt import Attempt
from orkestra.langfuse.attributes import Describer, Ended, Observed, Taker
from orkestra.langfuse.exporter import Loss, Losses, Sender
from orkestra.langfuse.mask import Masker
from orkestra.tracing import Caller, CaptureLimits, LiveSpan, Span, SpanRecord

if TYPE_CHECKING:
    from orkestra.langfuse.encode import Wire
    from orkestra.langfuse.observe import Observing, Route


_logger: Final = logging.getLogger(__name__)
_MAX_STARTING_SECONDS: Final = 15.0
_MAX_OPENING_SECONDS: Final = 10.0
_TELLING_SECONDS: Final = 3.0
"""After which time Langfuse tells what it has taken."""

_WHOLE: Final = 2**64


class LangfuseSink:
    """Sends spans to one Langfuse project.

    Making one does nothing yet: a thread is started when the first span comes, and the Langfuse SDK
    is imported when an activity runs or `start()` is called.
    """

    def __init__(
        self,
        settings: LangfuseSettings,
        *,
        route: "Route | None" = None,
        at_exit: Callable[[], None] | None = None,
    ) -> None:
        """Send to the project of the settings.

        Args:
            settings: With both keys; whether tracing is on is for the caller to ask.
            route: Where the observations of a tenant go that are made outside of activities, and
                what comes after the sink was closed; None means here.
            at_exit: What the interpreter's exit does about what has not been sent; None means to
                wait for it.

        Raises:
            MissingExtraError: The Langfuse SDK is not installed.
        """
        require_langfuse()
        self._settings = settings
        self._route: Route = route or self._here
        self._limits = limits_of(settings)
        self._bound = round(settings.sample_rate * _WHOLE)
        # What an attempt passes on is masked where it is sent.
        self._describer = Describer(settings, Masker(None))
        self._losses = Losses()
        self._lock = threading.Lock()
        self._sender: Sender | None = None
        self._opening: Future[Observing] | None = None
        self._inside = 0
        self._at_exit = at_exit or self._flush_at_exit
        self._is_behind = False
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether code runs inside of attempts that will be sent here."""
        return self._inside > 0

    @property
    def public_key(self) -> str:
        """Key of the project."""
        return self._settings.public_key or ""

    @property
    def limits(self) -> CaptureLimits:
        """See base class."""
        return self._limits

    @property
    def lost(self) -> Counter[Loss]:
        """How many spans were lost, by reason."""
        return self._losses.counts()

    @property
    def sent(self) -> int:
        """How many spans Langfuse has taken."""
        return 0 if self._sender is None else self._sender.sent

    @property
    def waiting(self) -> int:
        """How many spans wait to be sent."""
        return 0 if self._sender is None else self._sender.waiting

    def start(self) -> None:
        """See base class."""
        self._send()
        self._observe()

    async def opened(self) -> None:
        """See base class."""
        self.start()
        try:
            await self._wait_open(_MAX_STARTING_SECONDS)
        except Exception:
            _logger.exception("Nothing can be observed inside of activities")

    def emit(self, record: SpanRecord) -> None:
        """See base class."""
        self.put(Ended(record))

    def offer(self, record: SpanRecord) -> bool:
        """Take a span that has ended, unless the sink was closed: then say so."""
        return self._offer(Ended(record))

    def take(self, observed: Observed) -> None:
        """Take spans that others made; never blocks and never raises."""
        sender = self._send()
        if sender is not None and sender.put(observed, spans=observed.spans):
            return
        present = self._route(observed.tenant)
        if present is None or present is self:
            self._count_late(observed.spans)
        else:
            present.take(observed)

    async def enter(self, span: Span) -> LiveSpan | None:
        """See base class."""
        attempt = Attempt(span, self._left)
        # A project that is being opened is in use, and does not make room for another.
        with self._lock:
            self._inside += 1
        try:
            if await self._wait_open(_MAX_OPENING_SECONDS):
                labels = self._describer.of_trace(span) if self.is_sampled(span) else None
                attempt.begin(self, self._settings, labels)
        except asyncio.CancelledError:
            with self._lock:
                self._inside -= 1
            raise
        except Exception:
            _logger.exception("Nothing can be observed inside of an activity")
        return attempt

    def caller(self, tenant: str | None) -> Caller | None:
        """See base class."""
        if "opentelemetry.trace" not in sys.modules:
            return None
        try:
            if "langfuse" in sys.modules:
                self._observe()
            from orkestra.langfuse.observe import caller_in  # noqa: PLC0415 - imports OpenTelemetry

            return caller_in(self.public_key, tenant)
        except Exception:
            _logger.exception("The caller's observation cannot be read")
            return None

    def is_sampled(self, span: Span) -> bool:
        """Whether the trace is sent, which its id decides, in every process alike.

        The Langfuse SDK decides by the same rule, OpenTelemetry's `TraceIdRatioBased`.
        """
        return int(span.trace_id[16:], 16) < self._bound

    async def project(self, tenant: str | None) -> "LangfuseSink":
        """See base class."""
        return self

    async def present(self, trace_id: str, timeout: timedelta) -> frozenset[str]:
        """See `TraceProject`; says nothing while spans wait that Langfuse does not know of yet."""
        if self._is_behind:
            if not await self.flush(timeout):
                msg = f"spans from before still wait for Langfuse at {self._settings.base_url!r}"
                raise LangfuseUnavailableError(msg)
            await asyncio.sleep(_TELLING_SECONDS)
            self._is_behind = False
        from orkestra.langfuse.api import present_observations  # noqa: PLC0415 - httpx

        return await present_observations(self._settings, trace_id, timeout=timeout)

    async def flush(self, timeout: timedelta) -> bool:
        """See base class."""
        hurried = self.hurry(timeout)
        is_sent = hurried is None or await _within(hurried, timeout)
        self._is_behind |= not is_sent
        return is_sent

    def hurry(self, timeout: timedelta) -> Future[bool] | None:
        """Flush without waiting for it; None where there is nothing to send."""
        return None if self._sender is None else self._sender.flush(timeout)

    async def close(self, timeout: timedelta) -> bool:
        """See base class."""
        with self._lock:
            sender, opening, self._is_closed = self._sender, self._opening, True
        atexit.unregister(self._flush_at_exit)
        is_sent = sender is None or await _within(sender.flush(timeout, is_last=True), timeout)
        if sender is not None:
            sender.stop()
        if opening is not None:
            opening.add_done_callback(self._let_go)
        return is_sent

    def _left(self, item: Ended) -> None:
        with self._lock:
            self._inside -= 1
        self.put(item)

    def put(self, item: Ended) -> None:
        """Take a span of ours; where the sink was closed, its tenant's project does."""
        if self._offer(item):
            return
        present = self._route(item.record.span.tenant)
        if isinstance(present, LangfuseSink) and present is not self:
            present.put(item)
        else:
            self._count_late(1)

    def _offer(self, item: Ended) -> bool:
        if not self.is_sampled(item.record.span):
            return True
        sender = self._send()
        return sender is not None and sender.put(item)

    def _count_late(self, spans: int) -> None:
        self._losses.count(Loss.UNSENT, spans, "tracing was closed before they came")

    def _send(self) -> Sender | None:
        if (sender := self._sender) is not None:
            return sender
        with self._lock:
            if self._sender is None and not self._is_closed:
                sender = Sender(self._wire, self._losses, limit=self._settings.queue_size)
                sender.gather = self._gather
                atexit.unregister(self._at_exit)
                atexit.register(self._at_exit)
                self._sender = sender
            return self._sender

    def _observe(self) -> "Future[Observing] | None":
        """Open what activities observe with, which takes a second, in a thread."""
        if (opening := self._opening) is not None:
            return opening
        with self._lock:
            if self._opening is None and not self._is_closed:
                made: Future[Observing] = Future()
                thread = threading.Thread(
                    target=self._open, args=(made,), name="orkestra-langfuse", daemon=True
                )
                thread.start()
                self._opening = made
            return self._opening

    async def _wait_open(self, seconds: float) -> bool:
        """Whether code can observe; raises where that fails or takes longer."""
        opening = self._observe()
        if opening is None:
            return False
        if not opening.done():
            waiting = asyncio.shield(asyncio.wrap_future(opening))
            await asyncio.wait_for(waiting, seconds)
        opening.result()
        return True

    def _open(self, opening: "Future[Observing]") -> None:
        try:
            from orkestra.langfuse.observe import open_observing  # noqa: PLC0415 - imports Langfuse

            opening.set_result(open_observing(self._settings, self._route))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must hear of it
            opening.set_exception(error)

    def _wire(self) -> "Wire":
        from orkestra.langfuse.encode import Wire  # noqa: PLC0415 - imports OpenTelemetry's protocol

        return Wire(self._settings)

    def _gather(self) -> None:
        opening = self._opening
        if opening is not None and opening.done() and opening.exception() is None:
            opening.result().flush()

    def _let_go(self, opening: "Future[Observing]") -> None:
        if opening.exception() is None and (end := opening.result().close(self._route)) is not None:
            threading.Thread(target=end, name="orkestra-langfuse-end", daemon=True).start()

    def _here(self, _: str | None) -> Taker:
        return self

    def _flush_at_exit(self) -> None:
        """Threads cannot be started any more, but those that run still do."""
        flush_at_exit([self], self._settings.flush_timeout)


def flush_at_exit(sinks: "Iterable[LangfuseSink]", timeout: timedelta) -> None:
    """Wait for all of them together, when the interpreter exits."""
    hurried = [done for sink in sinks if (done := sink.hurry(timeout)) is not None]
    _, late = wait(hurried, timeout.total_seconds())
    if late:
        _logger.warning("Some spans were not sent within %s", timeout)


def limits_of(settings: LangfuseSettings) -> CaptureLimits:
    """What of arguments and results may be captured."""
    return CaptureLimits(
        input=settings.capture_input,
        output=settings.capture_output,
        max_bytes=settings.max_value_bytes,
    )


async def _within(done: Future[bool], timeout: timedelta) -> bool:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), timeout.total_seconds())
    except TimeoutError:
        return False


def require_langfuse() -> None:
    """Check that the Langfuse SDK is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("langfuse") is None:
        raise MissingExtraError("Tracing to Langfuse", "langfuse")
