"""`LangfuseProjects`: each tenant's spans to the tenant's own Langfuse project.

A project is opened when the first span of one of its tenants comes, and the longest unused is
closed when too many are open. The directory says which project is whose. It can only be asked on
the event loop, but spans of workflow code come from other threads: those of a tenant that is not
known yet are deferred to the loop.
"""

import asyncio
import atexit
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from typing import Final

from orkestra.config import LangfuseProject, LangfuseSettings
from orkestra.errors import OrkestraError
from orkestra.langfuse.attributes import SpanReceiver
from orkestra.langfuse.exporter import DropCounter, Loss
from orkestra.langfuse.langfuse_sink import ActiveAttempt, LangfuseSink, flush_at_exit, limits_of
from orkestra.tracing import Caller, CaptureLimits, FinishedSpan, Span, SpanCounts

_CLOSING_TIMEOUT: Final = timedelta(minutes=1)
_MANY_CLOSING: Final = 32

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
        with suppress(LookupError):
            return self.sink_of(tenant)
        if tenant is not None:
            await self._ask(tenant)
        return self.sink_of(tenant)

    async def flush(self, timeout: timedelta) -> bool:
        """See `LangfuseSink`."""
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
