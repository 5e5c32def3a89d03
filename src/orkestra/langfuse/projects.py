"""`LangfuseProjects`: a `TraceSink` that gives each tenant's spans to the tenant's own project."""

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
from orkestra.langfuse.attributes import Taker
from orkestra.langfuse.exporter import Loss, Losses
from orkestra.langfuse.langfuse_sink import LangfuseSink, flush_at_exit, limits_of
from orkestra.tracing import Caller, CaptureLimits, LiveSpan, Span, SpanCounts, SpanRecord

_RETIRING: Final = timedelta(minutes=1)
_MANY: Final = 32

ProjectOf = Callable[[str], LangfuseProject | None]
"""The project of a tenant, None for the shared one; a `LookupError` where it is not known yet."""

Ask = Callable[[str], Awaitable[object]]
"""Asks for a tenant, so that its project becomes known."""


class LangfuseProjects:
    """Opens a project when the first span of one of its tenants comes, and keeps some open.

    Tenants without a project of their own share one. What belongs to a tenant that is not known
    goes nowhere.
    """

    def __init__(self, shared: LangfuseSettings, project_of: ProjectOf, ask: Ask) -> None:
        """Open nothing yet.

        Args:
            shared: The shared project, and how all of them are sent to. Without keys, tenants that
                have no project of their own are not traced.
            project_of: Knows whose project is which; called from any thread.
            ask: Makes it known.

        Raises:
            MissingExtraError: The Langfuse SDK is not installed.
        """
        self._settings = shared
        self._project_of = project_of
        self._ask = ask
        self._limits = limits_of(shared)
        self._shared = self._sink(shared) if shared.is_on else None
        self._open: OrderedDict[LangfuseProject, LangfuseSink] = OrderedDict()
        self._lock = threading.Lock()
        self._losses = Losses()
        self._past: Counter[Loss] = Counter()
        self._past_sent = 0
        self._retiring: set[LangfuseSink] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._parked = 0
        self._is_closed = False

    @property
    def limits(self) -> CaptureLimits:
        """See base class."""
        return self._limits

    @property
    def lost(self) -> Counter[Loss]:
        """How many spans were lost, by reason, in all projects."""
        with self._lock:
            return sum((sink.lost for sink in self._counted()), self._past + self._losses.counts())

    @property
    def counts(self) -> SpanCounts:
        """What became of the spans of all projects."""
        lost = self.lost
        with self._lock:
            sinks = self._counted()
            return SpanCounts(
                sent=self._past_sent + sum(sink.sent for sink in sinks),
                waiting=self._parked + sum(sink.waiting for sink in sinks),
                lost={str(reason): spans for reason, spans in lost.items()},
            )

    def start(self) -> None:
        """See base class."""
        self._note_loop()
        if self._shared is not None:
            self._shared.start()

    async def opened(self) -> None:
        """See base class."""
        self.start()
        if self._shared is not None:
            await self._shared.opened()
        else:
            await asyncio.to_thread(_import_langfuse)

    def emit(self, record: SpanRecord) -> None:
        """See base class."""
        try:
            self._emit(record)
        except LookupError:
            self._park(record)

    async def enter(self, span: Span) -> LiveSpan | None:
        """See base class."""
        self._note_loop()
        try:
            if span.tenant is not None and not self._is_known(span.tenant):
                await self._ask(span.tenant)
            sink = self.sink_of(span.tenant)
        except (LookupError, OrkestraError) as error:
            self._losses.count(Loss.UNKNOWN_TENANT, 1, repr(error))
            return None
        return None if sink is None else await sink.enter(span)

    def caller(self, tenant: str | None) -> Caller | None:
        """See base class."""
        self._note_loop()
        try:
            sink = self.sink_of(tenant)
        except LookupError:
            return None
        return None if sink is None else sink.caller(tenant)

    async def project(self, tenant: str | None) -> LangfuseSink | None:
        """See base class."""
        self._note_loop()
        if tenant is not None and not self._is_known(tenant):
            await self._ask(tenant)
        return self.sink_of(tenant)

    async def flush(self, timeout: timedelta) -> bool:
        """See base class."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=timeout.total_seconds())
        return all(await asyncio.gather(*(sink.flush(timeout) for sink in self._sinks())))

    async def close(self, timeout: timedelta) -> bool:
        """See base class."""
        with self._lock:
            self._is_closed = True
        atexit.unregister(self._flush_at_exit)
        return all(await asyncio.gather(*(sink.close(timeout) for sink in self._sinks())))

    def _emit(self, record: SpanRecord) -> None:
        """Emit, once more where the project made room for others at this very moment."""
        sink = self.sink_of(record.span.tenant)
        if sink is not None and not sink.offer(record):
            again = self.sink_of(record.span.tenant)
            (again or sink).emit(record)

    def sink_of(self, tenant: str | None) -> LangfuseSink | None:
        """Where the spans of a tenant go; None where they are not sent.

        Raises:
            LookupError: That is not known yet.
        """
        project = None if tenant is None else self._project_of(tenant)
        if project is None:
            return self._shared
        with self._lock:
            sink = self._open.get(project)
            if sink is None and not self._is_closed:
                sink = self._open[project] = self._sink(self._settings.for_project(project))
                self._make_room()
            if sink is not None:
                self._open.move_to_end(project)
        return sink

    def _make_room(self) -> None:
        """Retire the longest unused, but for those that code runs inside of, and the newest."""
        excess = len(self._open) - self._settings.max_open_projects
        idle = [project for project, sink in self._open.items() if not sink.is_busy][:-1]
        for project in idle[: max(0, excess)]:
            self._retire(self._open.pop(project))

    def _sink(self, settings: LangfuseSettings) -> LangfuseSink:
        return LangfuseSink(settings, route=self._taker, at_exit=self._flush_at_exit)

    def _flush_at_exit(self) -> None:
        """Wait for all projects at the same time."""
        flush_at_exit(self._sinks(), self._settings.flush_timeout)

    def _retire(self, sink: LangfuseSink) -> None:
        """Send what the longest unused project still has, without waiting for it.

        A shutdown is in a hurry and this is not, unless so many wait that their threads add up.
        """
        hurry = self._settings.flush_timeout
        timeout = hurry if len(self._retiring) >= _MANY else max(hurry, _RETIRING)

        def retire() -> None:
            asyncio.run(sink.close(timeout))
            with self._lock:
                self._past += sink.lost
                self._past_sent += sink.sent
                self._retiring.discard(sink)

        self._retiring.add(sink)
        threading.Thread(target=retire, name="orkestra-retire", daemon=True).start()

    def _sinks(self) -> list[LangfuseSink]:
        with self._lock:
            return self._counted()

    def _counted(self) -> list[LangfuseSink]:
        """Those too that are on their way out and still send."""
        return [*self._open.values(), *([self._shared] if self._shared else ()), *self._retiring]

    def _taker(self, tenant: str | None) -> Taker | None:
        try:
            return self.sink_of(tenant)
        except LookupError:
            return None

    def _is_known(self, tenant: str) -> bool:
        try:
            self._project_of(tenant)
        except LookupError:
            return False
        return True

    def _note_loop(self) -> None:
        if self._loop is None or self._loop.is_closed():
            with suppress(RuntimeError):  # nothing is asked where no loop runs
                self._loop = asyncio.get_running_loop()

    def _park(self, record: SpanRecord) -> None:
        """Ask for the tenant where the directory can be asked: not on a workflow's thread."""
        loop = self._loop
        with self._lock:
            is_room = loop is not None and self._parked < self._settings.queue_size
            self._parked += is_room
        if loop is None or not is_room:
            self._losses.count(Loss.UNKNOWN_TENANT, 1, "too many wait for the directory")
            return
        try:
            loop.call_soon_threadsafe(self._ask_soon, record)
        except RuntimeError:
            self._unpark("the event loop is closed")

    def _ask_soon(self, record: SpanRecord) -> None:
        task = asyncio.create_task(self._asked(record))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _asked(self, record: SpanRecord) -> None:
        tenant = record.span.tenant
        try:
            if tenant is not None:
                await self._ask(tenant)
            self._emit(record)
        except Exception as error:  # noqa: BLE001 - the directory may be anyone's code
            self._unpark(repr(error))
        else:
            self._unpark(None)

    def _unpark(self, why: str | None) -> None:
        with self._lock:
            self._parked -= 1
        if why is not None:
            self._losses.count(Loss.UNKNOWN_TENANT, 1, why)


def _import_langfuse() -> None:
    """Takes a second, which the first activity would otherwise wait for."""
    import_module("orkestra.langfuse.observe")
