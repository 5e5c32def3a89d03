"""The thread that sends the spans of one project, in batches, for as long as it takes.

Whoever hands in a span waits for nothing and wakes nobody but an idle thread: a span that comes
while another lingers joins its batch. What waits is bounded; what does not fit is counted.

Spans that were lost: counted always, logged once.
"""

import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from orkestra.langfuse.attributes import Ended, Observed

if TYPE_CHECKING:
    from orkestra.langfuse.encode import Part, Wire


_logger: Final = logging.getLogger(__name__)


class Loss(StrEnum):
    """Why spans were lost."""

    QUEUE_FULL = "queue_full"
    """They came faster than Langfuse took them; `queue_size` says how many may wait."""
    REJECTED = "rejected"
    """Langfuse refused them for good: a wrong key, for instance."""
    TOO_LARGE = "too_large"
    """A single span was too large for Langfuse, or for a proxy before it."""
    UNSENT = "unsent"
    """They still waited when everything was closed."""
    UNKNOWN_TENANT = "unknown_tenant"
    """The directory did not say in time to which project they belong."""
    INTERNAL = "internal"
    """They could not be written: an error of Orkestra's, of the mask's or of the SDK's."""


class Losses:
    """Counts lost spans by reason; safe to use from any thread."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._counts: Counter[Loss] = Counter()
        self._lock = threading.Lock()

    def count(self, loss: Loss, spans: int, why: object) -> None:
        """Count spans as lost, and log the first of each reason.

        Args:
            loss: The reason.
            spans: How many were lost.
            why: What happened, for the log.
        """
        if spans <= 0:
            return
        with self._lock:
            is_first = loss not in self._counts
            self._counts[loss] += spans
        if is_first:
            message = "Spans are lost (%s): %s. Workflows go on; more of these are only counted"
            _logger.warning(message, loss, why)

    def total(self) -> int:
        """How many spans were lost altogether."""
        with self._lock:
            return self._counts.total()

    def counts(self) -> Counter[Loss]:
        """How many spans were lost, by reason."""
        with self._lock:
            return self._counts.copy()


_BATCH: Final = 512
_BATCH_BYTES: Final = 2 * 1024 * 1024
_LINGER: Final = 1.0
_FIRST_BACKOFF: Final = 0.5
_MAX_BACKOFF: Final = 30.0

Item = Ended | Observed


@dataclass(slots=True)
class _Flush:
    """Somebody waits until everything handed in so far is sent."""

    deadline: float
    lost_before: int
    is_last: bool = False
    until: int | None = None
    done: Future[bool] = field(default_factory=Future[bool])

    def answer(self, *, is_sent: bool) -> None:
        if not self.done.done() and self.done.set_running_or_notify_cancel():
            self.done.set_result(is_sent)


class Sender:
    """Takes what is to be sent; safe to use from any thread."""

    def __init__(self, open_wire: "Callable[[], Wire]", losses: Losses, *, limit: int) -> None:
        """Start the thread.

        Args:
            open_wire: Makes the way to Langfuse, in the thread.
            losses: Where to count what is lost.
            limit: How many spans may wait.
        """
        self.gather: Callable[[], None] = _nothing
        self._open_wire = open_wire
        self._losses = losses
        self._limit = limit
        self._items: deque[Item] = deque()
        self._taken = 0
        self._finished = 0
        self._sent = 0
        self._flushes: list[_Flush] = []
        self._is_idle = False
        self._is_closed = False
        self._is_stopped = False
        self._changed = threading.Condition()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="orkestra-spans", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> int:
        """How many spans Langfuse has taken."""
        return self._sent

    @property
    def waiting(self) -> int:
        """How many spans wait to be sent, or for Langfuse's answer."""
        return 0 if self._is_stopped else self._taken - self._finished

    def put(self, item: Item, *, spans: int = 1) -> bool:
        """Take something to send, or count it as lost where too much waits.

        Args:
            item: What to send.
            spans: How many spans it has.

        Returns:
            False where the sender was closed before, and has not counted it.
        """
        if os.getpid() != self._process:
            return True  # a forked child has neither the thread nor, perhaps, the lock
        with self._changed:
            is_room = self._taken - self._finished + spans <= self._limit
            is_taken = is_room and not self._is_closed
            if is_taken:
                self._items.append(item)
                self._taken += spans
                if self._is_idle or len(self._items) == _BATCH:
                    self._changed.notify()
        if self._is_closed and not is_taken:
            return False
        if not is_room:
            self._losses.count(Loss.QUEUE_FULL, spans, f"{self._limit} already wait to be sent")
        return True

    def flush(self, timeout: timedelta, *, is_last: bool = False) -> Future[bool]:
        """Ask for everything taken so far to be sent now.

        Args:
            timeout: How long to hurry for it.
            is_last: Whether to take nothing more.

        Returns:
            Will say whether all was delivered.
        """
        flush = _Flush(
            time.monotonic() + timeout.total_seconds(), self._losses.total(), is_last=is_last
        )
        if os.getpid() != self._process:
            flush.answer(is_sent=True)
            return flush.done
        with self._changed:
            if self._is_stopped:
                flush.answer(is_sent=True)
            else:
                self._flushes.append(flush)
                self._changed.notify()
        return flush.done

    def stop(self) -> None:
        """End the thread; what still waits is lost. May be called again."""
        with self._changed:
            if self._is_stopped:
                return
            self._is_stopped = self._is_closed = True
            unsent = self._taken - self._finished
            self._items.clear()
            self._changed.notify()
        self._losses.count(Loss.UNSENT, unsent, "tracing was closed before Langfuse took them")

    def _run(self) -> None:
        try:
            wire = self._open_wire()
        except Exception as error:  # noqa: BLE001 - the work goes on, and this is counted
            self._lose_everything(repr(error))
            return
        while (batch := self._next()) is not None:
            parts = [part for item in batch if (part := self._encoded(wire, item)) is not None]
            for some in _portions(parts):
                self._send(wire, some)
        wire.close()

    def _next(self) -> "list[Item] | None":
        """Wait for a batch; None where there is nothing more to do."""
        lingering_until = None
        with self._changed:
            while not self._is_stopped:
                if ungathered := [flush for flush in self._flushes if flush.until is None]:
                    self._gather(ungathered)
                    continue
                self._settle()
                now = time.monotonic()
                if not self._items:
                    self._is_idle, lingering_until = True, None
                    self._changed.wait()
                    self._is_idle = False
                    continue
                lingering_until = lingering_until or now + _LINGER
                if self._flushes or len(self._items) >= _BATCH or now >= lingering_until:
                    return [self._items.popleft() for _ in range(min(_BATCH, len(self._items)))]
                self._changed.wait(lingering_until - now)
            self._settle()
            return None

    def _gather(self, flushes: Sequence[_Flush]) -> None:
        """Have what others still hold handed in, without the lock, which that needs."""
        self._changed.release()
        try:
            self.gather()
        except Exception as error:  # noqa: BLE001 - the thread must live on
            self._losses.count(Loss.INTERNAL, 1, repr(error))
        finally:
            self._changed.acquire()
        for flush in flushes:
            flush.until = self._taken
            self._is_closed |= flush.is_last

    def _settle(self) -> None:
        """Answer those whose spans are all through, or who wait no longer."""
        now = time.monotonic()
        for flush in tuple(self._flushes):
            # A close may overtake a flush before it was gathered: all that came has to be through.
            until = self._taken if self._is_stopped and flush.until is None else flush.until
            is_through = until is not None and self._finished >= until
            if is_through or self._is_stopped or now >= flush.deadline:
                self._flushes.remove(flush)
                is_sent = is_through and self._losses.total() == flush.lost_before
                flush.answer(is_sent=is_sent)

    def _encoded(self, wire: "Wire", item: Item) -> "Part | None":
        try:
            return wire.encode(item)
        except Exception as error:  # noqa: BLE001 - one span that cannot be written is lost alone
            spans = item.spans if isinstance(item, Observed) else 1
            self._finish(Loss.INTERNAL, spans, repr(error))
            return None

    def _send(self, wire: "Wire", parts: "Sequence[Part]") -> None:
        from orkestra.langfuse.api import Answer  # noqa: PLC0415 - brings an HTTP client

        spans, attempt = sum(part.spans for part in parts), 0
        while not self._is_stopped:
            try:
                reply = wire.post(parts)
            except Exception as error:  # noqa: BLE001 - the thread must live on
                self._finish(Loss.INTERNAL, spans, repr(error))
                return
            if reply.answer is Answer.TRY_AGAIN:
                self._back_off(attempt, reply.retry_after)
                attempt += 1
                continue
            if reply.answer is Answer.TOO_LARGE and len(parts) > 1:
                half = len(parts) // 2
                self._send(wire, parts[:half])
                self._send(wire, parts[half:])
            elif reply.answer is Answer.TOO_LARGE:
                self._finish(Loss.TOO_LARGE, spans, reply.why)
            else:
                loss = Loss.REJECTED if reply.answer is Answer.REJECTED else None
                self._finish(loss, spans, reply.why)
            return

    def _finish(self, loss: Loss | None, spans: int, why: str) -> None:
        with self._changed:
            is_counted = loss is not None and not self._is_stopped
            self._finished += spans
            self._sent += spans if loss is None and not self._is_stopped else 0
        if is_counted and loss is not None:
            self._losses.count(loss, spans, why)

    def _back_off(self, attempt: int, at_least: float) -> None:
        """Wait, but not for long where somebody waits for the flush and Langfuse allows it."""
        longest = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2 ** min(attempt, 10))
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        began = time.monotonic()
        with self._changed:
            while not self._is_stopped:
                self._settle()
                shortest = _FIRST_BACKOFF if self._flushes else longest
                left = began + max(at_least, jitter * shortest) - time.monotonic()
                if left <= 0:
                    return
                next_flush = min((f.deadline for f in self._flushes), default=None)
                until_flush = left if next_flush is None else next_flush - time.monotonic()
                self._changed.wait(max(0.01, min(left, until_flush)))

    def _lose_everything(self, why: str) -> None:
        """Langfuse cannot be used: count what comes, and answer who waits."""
        while (batch := self._next()) is not None:
            spans = sum(item.spans if isinstance(item, Observed) else 1 for item in batch)
            self._finish(Loss.INTERNAL, spans, f"Langfuse cannot be used: {why}")


def _portions(parts: "list[Part]") -> "list[list[Part]]":
    """Split what would be too large for one request."""
    portions: list[list[Part]] = []
    size = 0
    for part in parts:
        if not portions or size + len(part.content) > _BATCH_BYTES:
            portions.append([])
            size = 0
        portions[-1].append(part)
        size += len(part.content)
    return portions


def _nothing() -> None:
    """There is nothing to gather."""
