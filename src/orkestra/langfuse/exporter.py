"""The thread that sends the spans of one project, in batches, and retries without giving up.

Handing in a span waits for nothing: it wakes only an idle thread, and while the thread lingers a
span joins the next batch. The queue is bounded. Spans that do not fit are dropped and counted.
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

from orkestra.config import LangfuseSettings
from orkestra.langfuse.attributes import ThirdPartySpans
from orkestra.tracing import FinishedSpan

if TYPE_CHECKING:
    from orkestra.langfuse.encode import EncodedSpans, OtlpHttpClient, SpanEncoder

_logger: Final = logging.getLogger(__name__)

_BATCH_SPANS: Final = 512
_BATCH_BYTES: Final = 2 * 1024 * 1024
_LINGER_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 30.0

Item = FinishedSpan | ThirdPartySpans


class Loss(StrEnum):
    """Reason why spans were lost."""

    QUEUE_FULL = "queue_full"
    """More spans waited than `queue_size` allows."""
    REJECTED = "rejected"
    """Langfuse rejected them for good, for instance because of a wrong key."""
    TOO_LARGE = "too_large"
    """A single span was too large for Langfuse, or for a proxy before it."""
    UNSENT = "unsent"
    """They still waited when tracing was closed."""
    UNKNOWN_TENANT = "unknown_tenant"
    """The directory did not tell in time to which project they belong."""
    INTERNAL = "internal"
    """They could not be encoded: an error of Orkestra's, of the mask's or of the SDK's."""


class DropCounter:
    """Counter of lost spans by reason. Safe to use from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[Loss] = Counter()
        self._lock = threading.Lock()

    def count(self, loss: Loss, spans: int, detail: object) -> None:
        """Count spans as lost, and log the first of each reason with its detail."""
        if spans <= 0:
            return
        with self._lock:
            is_first = loss not in self._counts
            self._counts[loss] += spans
        if is_first:
            _logger.warning(
                "Spans are lost (%s): %s. Workflows are not affected; more losses are only counted",
                loss,
                detail,
            )

    def total(self) -> int:
        """Return the number of lost spans."""
        with self._lock:
            return self._counts.total()

    def counts(self) -> Counter[Loss]:
        """Return the numbers of lost spans, by reason."""
        with self._lock:
            return self._counts.copy()


@dataclass(slots=True)
class _Flush:
    """A caller that waits until everything handed in so far is sent.

    Attributes:
        until: Number of spans that were handed in when it began; None before they are gathered.
    """

    deadline: float
    lost_before: int
    is_last: bool = False
    until: int | None = None
    done: Future[bool] = field(default_factory=Future[bool])

    def answer(self, *, is_sent: bool) -> None:
        if not self.done.done() and self.done.set_running_or_notify_cancel():
            self.done.set_result(is_sent)


class Sender:
    """Queue and thread of one project. Safe to use from any thread.

    Args:
        settings: The project.
        drops: Counter of lost spans.
        gather: Called in the thread before a flush: hands in what others still hold.
    """

    def __init__(
        self, settings: LangfuseSettings, drops: DropCounter, gather: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._drops = drops
        self._gather_others = gather
        self._limit = settings.queue_size
        self._items: deque[Item] = deque()
        self._accepted = 0
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
        """Number of spans that Langfuse has accepted."""
        return self._sent

    @property
    def waiting(self) -> int:
        """Number of spans that wait to be sent, or for Langfuse's answer."""
        return 0 if self._is_stopped else self._accepted - self._finished

    def put(self, item: Item) -> bool:
        """Accept spans, or count them as lost where too many wait.

        Returns:
            False where the sender was closed before; then they are not counted.
        """
        if os.getpid() != self._process:
            return True  # a forked child has no thread, and the lock may be held for ever
        spans = _count(item)
        with self._changed:
            is_room = self._accepted - self._finished + spans <= self._limit
            is_accepted = is_room and not self._is_closed
            if is_accepted:
                self._items.append(item)
                self._accepted += spans
                # A lingering thread sleeps on: waking it would cost more than the span.
                if self._is_idle or len(self._items) == _BATCH_SPANS:
                    self._changed.notify()
        if self._is_closed and not is_accepted:
            return False
        if not is_room:
            self._drops.count(Loss.QUEUE_FULL, spans, f"{self._limit} already wait to be sent")
        return True

    def flush(self, timeout: timedelta, *, is_last: bool = False) -> Future[bool]:
        """Send everything that was handed in so far now.

        Args:
            timeout: Time limit.
            is_last: Whether to accept nothing more.

        Returns:
            Future that says whether all of it was delivered.
        """
        flush = _Flush(
            time.monotonic() + timeout.total_seconds(), self._drops.total(), is_last=is_last
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
        """End the thread, and drop what still waits. May be called again."""
        with self._changed:
            if self._is_stopped:
                return
            self._is_stopped = self._is_closed = True
            unsent = self._accepted - self._finished
            self._items.clear()
            self._changed.notify()
        self._drops.count(Loss.UNSENT, unsent, "tracing was closed before Langfuse accepted them")

    def _run(self) -> None:
        try:
            # Deferred: loads OpenTelemetry's messages and an HTTP client, which take a while.
            from orkestra.langfuse.encode import OtlpHttpClient, SpanEncoder  # noqa: PLC0415

            encoder, http = SpanEncoder(self._settings), OtlpHttpClient(self._settings)
        except Exception as error:  # noqa: BLE001 - the work goes on, and this is counted
            while (batch := self._next_batch()) is not None:
                spans = sum(_count(item) for item in batch)
                self._finish(Loss.INTERNAL, spans, f"Langfuse cannot be used: {error!r}")
            return
        while (batch := self._next_batch()) is not None:
            encoded = [each for item in batch if (each := self._encode(encoder, item)) is not None]
            for request in _requests(encoded):
                self._post(encoder, http, request)
        http.close()

    def _next_batch(self) -> "list[Item] | None":
        """Wait for a batch; None where the thread is to end."""
        linger_until = None
        with self._changed:
            while not self._is_stopped:
                if ungathered := [flush for flush in self._flushes if flush.until is None]:
                    self._gather(ungathered)
                    continue
                self._answer_flushes()
                now = time.monotonic()
                if not self._items:
                    self._is_idle, linger_until = True, None
                    self._changed.wait()
                    self._is_idle = False
                    continue
                linger_until = linger_until or now + _LINGER_SECONDS
                if self._flushes or len(self._items) >= _BATCH_SPANS or now >= linger_until:
                    size = min(_BATCH_SPANS, len(self._items))
                    return [self._items.popleft() for _ in range(size)]
                self._changed.wait(linger_until - now)
            self._answer_flushes()
            return None

    def _gather(self, flushes: Sequence[_Flush]) -> None:
        # Without the lock, because the others hand their spans in through put().
        self._changed.release()
        try:
            self._gather_others()
        except Exception as error:  # noqa: BLE001 - the thread must live on
            self._drops.count(Loss.INTERNAL, 1, repr(error))
        finally:
            self._changed.acquire()
        for flush in flushes:
            flush.until = self._accepted
            self._is_closed |= flush.is_last

    def _answer_flushes(self) -> None:
        """Answer the flushes that are complete or late."""
        now = time.monotonic()
        for flush in tuple(self._flushes):
            # stop() may come before a flush was gathered: then everything has to be finished.
            until = self._accepted if self._is_stopped and flush.until is None else flush.until
            is_complete = until is not None and self._finished >= until
            if is_complete or self._is_stopped or now >= flush.deadline:
                self._flushes.remove(flush)
                flush.answer(is_sent=is_complete and self._drops.total() == flush.lost_before)

    def _encode(self, encoder: "SpanEncoder", item: Item) -> "EncodedSpans | None":
        try:
            return encoder.encode(item)
        except Exception as error:  # noqa: BLE001 - only this span is lost
            self._finish(Loss.INTERNAL, _count(item), repr(error))
            return None

    def _post(
        self, encoder: "SpanEncoder", http: "OtlpHttpClient", encoded: "Sequence[EncodedSpans]"
    ) -> None:
        from orkestra.langfuse.encode import Result  # noqa: PLC0415 - loaded by now

        spans, attempt = sum(each.count for each in encoded), 0
        while not self._is_stopped:
            try:
                response = http.post(encoder.request(encoded))
            except Exception as error:  # noqa: BLE001 - the thread must live on
                self._finish(Loss.INTERNAL, spans, repr(error))
                return
            # Without end: spans wait in the bounded queue as long as Langfuse is down (T44).
            if response.result is Result.RETRY:
                self._back_off(attempt, response.retry_after_seconds)
                attempt += 1
                continue
            if response.result is Result.TOO_LARGE and len(encoded) > 1:
                # Halved until the large span is alone, so that it does not take the others with it.
                half = len(encoded) // 2
                self._post(encoder, http, encoded[:half])
                self._post(encoder, http, encoded[half:])
            elif response.result is Result.TOO_LARGE:
                self._finish(Loss.TOO_LARGE, spans, response.reason)
            else:
                loss = Loss.REJECTED if response.result is Result.REJECTED else None
                self._finish(loss, spans, response.reason)
            return

    def _finish(self, loss: Loss | None, spans: int, reason: str) -> None:
        with self._changed:
            self._finished += spans
            if self._is_stopped:
                return  # stop() has counted them as unsent
            self._sent += spans if loss is None else 0
        if loss is not None:
            self._drops.count(loss, spans, reason)

    def _back_off(self, attempt: int, at_least_seconds: float) -> None:
        """Wait, but not for long while a flush waits and Langfuse allows it."""
        # The exponent is capped, because the retries go on for as long as Langfuse is down.
        longest = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(attempt, 10))
        # Spreads the workers' retries, which all began when Langfuse went down.
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        began = time.monotonic()
        with self._changed:
            while not self._is_stopped:
                self._answer_flushes()
                pause = _FIRST_BACKOFF_SECONDS if self._flushes else longest
                left = began + max(at_least_seconds, jitter * pause) - time.monotonic()
                if left <= 0:
                    return
                next_flush = min((f.deadline for f in self._flushes), default=None)
                until_flush = left if next_flush is None else next_flush - time.monotonic()
                # Not 0: at its deadline a flush is answered in the next round, without a busy loop.
                self._changed.wait(max(0.01, min(left, until_flush)))


def _count(item: Item) -> int:
    return item.count if isinstance(item, ThirdPartySpans) else 1


def _requests(encoded: "list[EncodedSpans]") -> "list[list[EncodedSpans]]":
    """Split a batch that would be too large for one request."""
    requests: list[list[EncodedSpans]] = []
    size = 0
    for each in encoded:
        length = each.message.ByteSize()
        if not requests or size + length > _BATCH_BYTES:
            requests.append([])
            size = 0
        requests[-1].append(each)
        size += length
    return requests
