"""`TraceStore`: takes spans from any thread, and has them on disk when it says so."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orkestra.otlp import ReceivedSpan
from orkestra.tracepage.database import forget_oldest, open_for_writing, write_rows
from orkestra.tracepage.rows import row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept; the traces that were silent for longest go first.

    Attributes:
        max_spans: Spans of all traces together.
        max_bytes: Bytes of their names, inputs, outputs and attributes together.
    """

    max_spans: int = 200_000
    max_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: Sequence[tuple[Any, ...]]
    done: Future[None] = field(default_factory=Future[None])


class TraceStore:
    """Writes spans to a database, in a thread of its own.

    Whatever has come in while one transaction was written is the next one.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention: Retention | None = None,
        on_change: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Open the database and start the thread.

        Args:
            path: The database, made if there is none; its directory must exist.
            retention: How much is kept.
            on_change: Called in the thread with the ids of the traces that changed.

        Raises:
            ConfigurationError: The file is no such database.
        """
        self.path = path
        self._retention = retention or Retention()
        self._on_change = on_change
        self._connection = open_for_writing(path)
        self._batches: deque[_Batch] = deque()
        self._unchecked = self._retention.max_spans  # so that the first batch checks
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="orkestra-trace-store", daemon=True)
        self._thread.start()

    def add(self, spans: Sequence[ReceivedSpan]) -> Future[None]:
        """Write spans.

        Returns:
            Done when they will survive the end of this process, however it comes about.
        """
        batch = _Batch([row_of(span) for span in spans])
        with self._changed:
            if self._is_closed:
                batch.done.set_exception(RuntimeError("the store of traces is closed"))
            else:
                self._batches.append(batch)
                self._changed.notify()
        return batch.done

    def close(self) -> None:
        """Write what was added, and close the database; may be called again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batches := self._next():
            rows = [row for batch in batches for row in batch.rows]
            try:
                touched = write_rows(self._connection, rows)
                self._forget(len(rows))
            except Exception as error:  # noqa: BLE001 - whoever sent them is told, and sends again
                for batch in batches:
                    batch.done.set_exception(error)
            else:
                for batch in batches:
                    batch.done.set_result(None)
                self._on_change(touched)
        self._connection.close()

    def _next(self) -> list[_Batch]:
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._is_closed)
            batches = list(self._batches)
            self._batches.clear()
            return batches

    def _forget(self, added: int) -> None:
        """Not after every batch: adding all sizes up takes its time."""
        self._unchecked += added
        if self._unchecked * 50 >= self._retention.max_spans:
            self._unchecked = 0
            limits = self._retention
            forget_oldest(self._connection, max_spans=limits.max_spans, max_bytes=limits.max_bytes)
