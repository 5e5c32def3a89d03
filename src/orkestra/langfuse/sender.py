"""The exporter under Langfuse's span processor: takes batches at once, sends them from a thread.

The processor's own export blocks whoever flushes for as long as Langfuse takes to answer, and drops
what one attempt could not deliver. Here a batch waits, within `queue_size`, until it is delivered.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from orkestra.langfuse.delivery import Answer, Delivery
from orkestra.langfuse.losses import Loss, Losses
from orkestra.langfuse.scrubbing import Scrubber

_FIRST_BACKOFF: Final = 0.5
_MAX_BACKOFF: Final = 30.0


class Sender(SpanExporter):
    """Sends batches in order, one at a time, for as long as it takes."""

    def __init__(
        self, delivery: Delivery, scrubber: Scrubber, losses: Losses, *, limit: int
    ) -> None:
        """Start the thread.

        Args:
            delivery: How to send.
            scrubber: Masks spans that others made.
            losses: Where to count what is lost.
            limit: How many spans may wait.
        """
        self._delivery = delivery
        self._scrubber = scrubber
        self._losses = losses
        self._limit = limit
        self._batches: deque[Sequence[ReadableSpan]] = deque()
        self._waiting = 0
        self._is_nudged = False
        self._is_stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="orkestra-spans", daemon=True)
        self._thread.start()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See base class; returns before the spans are sent."""
        with self._changed:
            is_room = self._waiting + len(spans) <= self._limit and not self._is_stopped
            if is_room:
                self._batches.append(spans)
                self._waiting += len(spans)
                self._changed.notify_all()
        if not is_room:
            why = f"{self._limit} already wait to be sent"
            self._losses.count(Loss.QUEUE_FULL, len(spans), why)
        return SpanExportResult.SUCCESS

    def drain(self, deadline: float) -> bool:
        """Wait until nothing waits to be sent.

        Args:
            deadline: Until when, by `time.monotonic()`.

        Returns:
            Whether all that waited was delivered.
        """
        before = self._losses.total()
        with self._changed:
            self._is_nudged = True
            self._changed.notify_all()
            left = deadline - time.monotonic()
            is_empty = self._changed.wait_for(lambda: self._waiting == 0, max(left, 0.0))
            self._is_nudged = False
        return is_empty and self._losses.total() == before

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """See base class."""
        return self.drain(time.monotonic() + timeout_millis / 1000)

    def shutdown(self) -> None:
        """See base class; what still waits is lost."""
        with self._changed:
            if self._is_stopped:
                return
            self._is_stopped = True
            unsent, self._waiting = self._waiting, 0
            self._batches.clear()
            self._changed.notify_all()
        self._losses.count(Loss.UNSENT, unsent, "tracing was closed before Langfuse took them")

    def _run(self) -> None:
        while (spans := self._next()) is not None:
            try:
                self._send(spans)
            except Exception as error:  # noqa: BLE001 - the thread must live as long as the process
                self._losses.count(Loss.INTERNAL, len(spans), repr(error))
            with self._changed:
                self._waiting = max(0, self._waiting - len(spans))
                self._changed.notify_all()
        self._delivery.close()

    def _next(self) -> Sequence[ReadableSpan] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._is_stopped)
            return None if self._is_stopped else self._batches.popleft()

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        body = self._encode([self._scrubber.scrubbed(span) for span in spans])
        attempt = 0
        while body and not self._is_stopped:
            answer, why = self._delivery.post(body)
            if answer is Answer.ACCEPTED:
                return
            if answer is Answer.REJECTED:
                self._losses.count(Loss.REJECTED, len(spans), why)
                return
            self._back_off(attempt)
            attempt += 1

    def _back_off(self, attempt: int) -> None:
        """Wait, but not for long where somebody waits for the flush."""
        longest = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2 ** min(attempt, 10))
        with self._changed:
            if self._is_nudged:
                longest = min(longest, _FIRST_BACKOFF)
            pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            was_nudged = self._is_nudged
            self._changed.wait_for(
                lambda: self._is_stopped or self._is_nudged is not was_nudged, pause
            )

    def _encode(self, spans: Sequence[ReadableSpan]) -> bytes | None:
        try:
            return self._delivery.encode(spans)
        except Exception as error:  # noqa: BLE001 - one span that cannot be written spoils a batch
            good = [span for span in spans if self._can_encode(span)]
            self._losses.count(Loss.INTERNAL, len(spans) - len(good), repr(error))
            return self._delivery.encode(good) if good else None

    def _can_encode(self, span: ReadableSpan) -> bool:
        try:
            self._delivery.encode([span])
        except Exception:  # noqa: BLE001 - as above
            return False
        return True
