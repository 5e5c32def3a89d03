"""Sinks: `LangfuseSink` sends spans to one Langfuse project, `LangfuseProjects` to many.

Making a sink does nothing yet, and importing this module imports neither Langfuse nor
OpenTelemetry, which takes a second. That happens in threads: in the exporter's, when the first span
comes, and in one that opens `orkestra.langfuse.observe`, when an activity runs or `start()` is
called.

`LangfuseProjects` opens a project when the first span of one of its tenants comes, and closes the
longest unused when too many are open. The directory says which project is whose. It can only be
asked on the event loop, but spans of workflow code come from other threads: those of a tenant that
is not known yet are deferred to the loop.
"""

import asyncio
import atexit
import logging
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from orkestra.config import LangfuseProject, LangfuseSettings
from orkestra.errors import LangfuseUnavailableError, MissingExtraError, OrkestraError
from orkestra.langfuse.attributes import (
    Attributes,
    Masker,
    Route,
    SpanAttributes,
    SpanReceiver,
    ThirdPartySpans,
)
from orkestra.langfuse.exporter import DropCounter, Item, Loss, Sender
from orkestra.tracing import Caller, CaptureLimits, FinishedSpan, Outcome, Span, SpanCounts

if TYPE_CHECKING:
    from orkestra.langfuse.observe import AttemptSpan, Observing

_logger: Final = logging.getLogger(__name__)
_MAX_START_SECONDS: Final = 15.0
_MAX_OPEN_SECONDS: Final = 10.0
_INGESTION_SECONDS: Final = 3.0
"""Time after which Langfuse's API lists what it has accepted."""
_CLOSING_TIMEOUT: Final = timedelta(minutes=1)
_MANY_CLOSING: Final = 32


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
            # Marked first: what comes from now on goes to the tenant's present sink.
            sender, opening, self._is_closed = self._sender, self._opening, True
        atexit.unregister(self._flush_at_exit)
        is_sent = sender is None or await _within(sender.flush(timeout, is_last=True), timeout)
        if sender is not None:
            sender.stop()
        if opening is not None:
            # It may still be opening: the import takes a second.
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

        settings = self._sink._settings  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of the same module
        return TracedProcessPool(pool, self._active, settings)

    def end(self, outcome: Outcome) -> None:
        """Leave the span and send it; never raises."""
        finished = FinishedSpan(span=self._span, outcome=outcome, end_ns=time.time_ns())
        try:
            if self._active is not None:
                finished = self._active.leave(finished)
        except Exception:
            _logger.exception("Attributes that an activity has set on its span were lost")
        self._sink.leave(finished)


ProjectOf = Callable[[str], LangfuseProject | None]
"""Finds the project of a tenant, None for the shared one. Raises `LookupError` where the tenant is
not known yet."""

Ask = Callable[[str], Awaitable[object]]
"""Asks the directory for a tenant, so that its project becomes known."""


class LangfuseProjects:
    """Sends spans to several Langfuse projects.

    Tenants without a project of their own share one. Spans of unknown tenants are dropped and
    counted. Methods of the same name as in `LangfuseSink` do the same.
    """

    def __init__(self, shared: LangfuseSettings, project_of: ProjectOf, ask: Ask) -> None:
        """Open nothing yet.

        Args:
            shared: The shared project, and the options of all. Without keys, tenants that have no
                project of their own are not traced.
            project_of: Finds the project of a tenant; called from any thread.
            ask: Asks the directory.

        Raises:
            MissingExtraError: The Langfuse SDK is not installed.
        """
        self._settings = shared
        self._project_of = project_of
        self._ask = ask
        self._limits = limits_of(shared)
        self._shared = self._sink(shared) if shared.is_on else None
        self._open: OrderedDict[LangfuseProject, LangfuseSink] = OrderedDict()
        self._closing: set[LangfuseSink] = set()
        self._lock = threading.Lock()
        self._drops = DropCounter()
        self._lost_by_closed: Counter[Loss] = Counter()
        self._sent_by_closed = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._deferred = 0
        self._is_closed = False

    @property
    def limits(self) -> CaptureLimits:
        """How much of arguments and results is captured."""
        return self._limits

    @property
    def lost(self) -> Counter[Loss]:
        """Numbers of lost spans of all projects, by reason."""
        with self._lock:
            lost = self._lost_by_closed + self._drops.counts()
            return sum((sink.lost for sink in self._sinks()), lost)

    @property
    def counts(self) -> SpanCounts:
        """Numbers of spans of all projects."""
        lost = self.lost
        with self._lock:
            sinks = self._sinks()
            return SpanCounts(
                sent=self._sent_by_closed + sum(sink.sent for sink in sinks),
                waiting=self._deferred + sum(sink.waiting for sink in sinks),
                lost={str(reason): spans for reason, spans in lost.items()},
            )

    def start(self) -> None:
        """See `LangfuseSink`."""
        self._note_loop()
        if self._shared is not None:
            self._shared.start()

    async def opened(self) -> None:
        """See `LangfuseSink`."""
        self.start()
        if self._shared is not None:
            await self._shared.opened()
        else:
            # Takes a second, which the first activity would otherwise wait for.
            await asyncio.to_thread(import_module, "orkestra.langfuse.observe")

    def emit(self, span: FinishedSpan) -> None:
        """See `LangfuseSink`."""
        try:
            self._emit(span)
        except LookupError:
            self._defer(span)

    async def enter(self, span: Span) -> ActiveAttempt | None:
        """See `LangfuseSink`."""
        try:
            sink = await self.project(span.tenant)
        except (LookupError, OrkestraError) as error:
            self._drops.count(Loss.UNKNOWN_TENANT, 1, repr(error))
            return None
        return None if sink is None else await sink.enter(span)

    async def caller(self, tenant: str | None) -> Caller | None:
        """See `LangfuseSink`."""
        try:
            sink = await self.project(tenant)
        except (LookupError, OrkestraError):
            return None  # the call itself is refused for the same reason
        return None if sink is None else await sink.caller(tenant)

    async def project(self, tenant: str | None) -> LangfuseSink | None:
        """Find the destination of a tenant's spans; None where they are not sent.

        Args:
            tenant: The tenant; None for work without one.

        Raises:
            UnknownTenantError: The directory does not know the tenant.
            DirectoryUnavailableError: The directory gave no answer.
        """
        self._note_loop()
        # Without asking if known already, which is the usual case.
        with suppress(LookupError):
            return self.sink_of(tenant)
        if tenant is not None:
            await self._ask(tenant)
        return self.sink_of(tenant)

    async def flush(self, timeout: timedelta) -> bool:
        """See `LangfuseSink`."""
        # Deferred spans reach their sinks only when the directory has answered.
        if self._asking:
            await asyncio.wait(self._asking, timeout=timeout.total_seconds())
        with self._lock:
            sinks = self._sinks()
        return all(await asyncio.gather(*(sink.flush(timeout) for sink in sinks)))

    async def close(self, timeout: timedelta) -> bool:
        """See `LangfuseSink`."""
        with self._lock:
            self._is_closed = True
            sinks = self._sinks()
        atexit.unregister(self._flush_at_exit)
        return all(await asyncio.gather(*(sink.close(timeout) for sink in sinks)))

    def sink_of(self, tenant: str | None) -> LangfuseSink | None:
        """Open the destination of a tenant's spans; None where they are not sent.

        Raises:
            LookupError: The tenant is not known yet.
        """
        project = None if tenant is None else self._project_of(tenant)
        if project is None:
            return self._shared
        with self._lock:
            sink = self._open.get(project)
            if sink is None and not self._is_closed:
                sink = self._open[project] = self._sink(self._settings.for_project(project))
                self._evict_idle()
            if sink is not None:
                # Keeps the longest unused in front, where `_evict_idle()` begins.
                self._open.move_to_end(project)
        return sink

    def _sink(self, settings: LangfuseSettings) -> LangfuseSink:
        return LangfuseSink(settings, route=self._receiver, at_exit=self._flush_at_exit)

    def _receiver(self, tenant: str | None) -> SpanReceiver | None:
        with suppress(LookupError):
            return self.sink_of(tenant)
        return None

    def _sinks(self) -> list[LangfuseSink]:
        """List all sinks that still send; the caller has the lock."""
        return [*self._open.values(), *([self._shared] if self._shared else ()), *self._closing]

    def _flush_at_exit(self) -> None:
        with self._lock:
            sinks = self._sinks()
        flush_at_exit(sinks, self._settings.flush_timeout)

    # --- Closing the longest unused --------------------------------------------------------------

    def _evict_idle(self) -> None:
        """Close the longest unused projects, but no busy one and not the newest."""
        excess = len(self._open) - self._settings.max_open_projects
        idle = [project for project, sink in self._open.items() if not sink.is_busy][:-1]
        for project in idle[: max(0, excess)]:
            sink = self._open.pop(project)
            self._closing.add(sink)
            # This is not in a hurry as a shutdown is, unless the threads of many closings add up.
            is_hurried = len(self._closing) > _MANY_CLOSING
            timeout = self._settings.flush_timeout
            threading.Thread(
                target=self._close_evicted,
                args=(sink, timeout if is_hurried else max(timeout, _CLOSING_TIMEOUT)),
                name="orkestra-retire",
                daemon=True,
            ).start()

    def _close_evicted(self, sink: LangfuseSink, timeout: timedelta) -> None:
        asyncio.run(sink.close(timeout))
        with self._lock:
            # Of a closed project only the numbers are kept.
            self._lost_by_closed += sink.lost
            self._sent_by_closed += sink.sent
            self._closing.discard(sink)

    # --- Spans of tenants that are not known yet -------------------------------------------------

    def _note_loop(self) -> None:
        if self._loop is None or self._loop.is_closed():
            with suppress(RuntimeError):  # no loop runs: then the directory is not asked
                self._loop = asyncio.get_running_loop()

    def _emit(self, span: FinishedSpan) -> None:
        sink = self.sink_of(span.span.tenant)
        if sink is not None and not sink.offer(span):
            # The project was closed at this very moment to make room: open it again.
            again = self.sink_of(span.span.tenant)
            (again or sink).emit(span)

    def _defer(self, span: FinishedSpan) -> None:
        """Hand a span to the event loop, where the directory can be asked."""
        loop = self._loop
        with self._lock:
            is_room = loop is not None and self._deferred < self._settings.queue_size
            self._deferred += is_room
        if loop is None or not is_room:
            self._drops.count(Loss.UNKNOWN_TENANT, 1, "too many spans wait for the directory")
            return
        try:
            loop.call_soon_threadsafe(self._ask_soon, span)
        except RuntimeError:
            self._undefer("the event loop is closed")

    def _ask_soon(self, span: FinishedSpan) -> None:
        task = asyncio.create_task(self._ask_and_emit(span))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_and_emit(self, span: FinishedSpan) -> None:
        tenant = span.span.tenant
        try:
            if tenant is not None:
                await self._ask(tenant)
            self._emit(span)
        except Exception as error:  # noqa: BLE001 - a directory may raise anything
            self._undefer(repr(error))
        else:
            self._undefer(None)

    def _undefer(self, loss: str | None) -> None:
        with self._lock:
            self._deferred -= 1
        if loss is not None:
            self._drops.count(Loss.UNKNOWN_TENANT, 1, loss)


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
