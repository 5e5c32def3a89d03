"""Database of the trace page: one thread writes it, in batches, and any thread reads it.

`TraceStore` takes spans from any thread and completes a future when they are on disk. A span is one
row; each batch also brings the summary row of its traces up to date, so that the list of traces
never reads spans.
"""

import json
import math
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from orkestra.errors import ConfigurationError
from orkestra.langfuse import attribute_names as names
from orkestra.otlp import ReceivedSpan
from orkestra.tracing import TENANT_TAG_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Limits of the stored traces; the traces without new spans for longest are deleted first.

    Attributes:
        max_spans: Largest number of spans of all traces together.
        max_bytes: Largest size of their names, inputs, outputs and attributes in bytes.
    """

    max_spans: int = 200_000
    max_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: Sequence[tuple[Any, ...]]
    done: Future[None] = field(default_factory=Future[None])


class TraceStore:
    """Writer of spans with a thread of its own.

    All spans that arrive during one transaction are written by the next one.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention: Retention | None = None,
        on_change: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Open the database and start the thread, which calls `on_change` with trace IDs."""
        self.path = path
        self._retention = retention or Retention()
        self._on_change = on_change
        self._connection = open_for_writing(path)
        self._batches: deque[_Batch] = deque()
        self._unchecked = self._retention.max_spans  # check the limits after the first batch
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="orkestra-trace-store", daemon=True)
        self._thread.start()

    def add(self, spans: Sequence[ReceivedSpan]) -> Future[None]:
        """Write spans, and return a future that is done when they are on disk."""
        batch = _Batch([row_of(span) for span in spans])
        with self._changed:
            if self._is_closed:
                batch.done.set_exception(RuntimeError("the trace store is closed"))
            else:
                # Needs no bound: each sender waits for its answer before it sends more.
                self._batches.append(batch)
                self._changed.notify()
        return batch.done

    def close(self) -> None:
        """Write the added spans, and close the database; repeatable."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        # An empty list means closed: batches that were added before are still written.
        while batches := self._next():
            rows = [row for batch in batches for row in batch.rows]
            try:
                # One transaction for all senders that wait.
                touched = write_rows(self._connection, rows)
                self._delete_oldest(len(rows))
            except Exception as error:  # noqa: BLE001 - the sender gets the error and retries
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

    def _delete_oldest(self, added: int) -> None:
        """Apply the limits now and then: adding up all sizes is slow."""
        self._unchecked += added
        # So `max_spans` is exceeded by about 2 %.
        if self._unchecked * 50 >= self._retention.max_spans:
            self._unchecked = 0
            limits = self._retention
            delete_oldest(self._connection, max_spans=limits.max_spans, max_bytes=limits.max_bytes)


COLUMNS: Final = (
    "trace_id",
    "span_id",
    "parent_id",
    "is_root",
    "name",
    "type",
    "level",
    "tenant",
    "workflow_type",
    "trace_name",
    "session_id",
    "user_id",
    "environment",
    "start_ns",
    "end_ns",
    "model",
    "tokens_in",
    "tokens_out",
    "cost",
    "attempt",
    "size",
    "message",
    "input",
    "output",
    "attributes",
    "events",
)
"""Columns of a span, the large ones last, so that a query for the others need not read them."""

_SHOWN_APART: Final = frozenset({names.INPUT, names.OUTPUT, names.STATUS_MESSAGE})
_GENERATIONS: Final = frozenset({"generation", "embedding"})
_ERROR_STATUS: Final = 2
_LARGEST_INTEGER: Final = 2**63 - 1


def row_of(span: ReceivedSpan) -> tuple[Any, ...]:
    """Return the values of a span in the order of `COLUMNS`."""
    given = span.attributes
    model = given.get(names.MODEL) or given.get("gen_ai.request.model")
    tokens_in, tokens_out = _tokens(given)
    shown = {key: _plain(value) for key, value in given.items() if key not in _SHOWN_APART}
    attributes = json.dumps(shown, ensure_ascii=False)
    message = span.status_message or span.status_text or None
    texts = [_text(given.get(f"{names.OBSERVATION_PREFIX}{name}")) for name in ("input", "output")]
    size = sum(len(text or "") for text in (span.name, attributes, message, *texts))
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.parent_id is None or span.is_app_root,
        span.name,
        _type(span, model),
        # Spans of other instrumentation carry the status of OpenTelemetry, no level of Langfuse.
        "ERROR" if span.status_code == _ERROR_STATUS else span.level,
        tenant_of(span),
        _optional(span.metadata.get("workflow_type")),
        _optional(given.get(names.TRACE_NAME)),
        _optional(span.session_id),
        _optional(span.user_id),
        _optional(given.get(names.ENVIRONMENT)),
        # Times are unsigned in the protocol; a larger one would fail SQLite's whole batch.
        min(span.start_ns, _LARGEST_INTEGER),
        min(max(span.end_ns, span.start_ns), _LARGEST_INTEGER),
        _optional(model),
        tokens_in,
        tokens_out,
        _number(_mapping(given.get(names.COST_DETAILS)).get("total")),
        _count(span.metadata.get("attempt")),
        size,
        message and str(message),
        *texts,
        attributes,
        json.dumps(span.events, ensure_ascii=False),
    )


def tenant_of(span: ReceivedSpan) -> str | None:
    """Return the tenant of a span, from a tag or its metadata."""
    for tag in span.tags:
        if str(tag).startswith(TENANT_TAG_PREFIX):
            return str(tag).removeprefix(TENANT_TAG_PREFIX)
    return _optional(span.trace_metadata.get("tenant_id", span.metadata.get("tenant_id")))


def _type(span: ReceivedSpan, model: object) -> str:
    kind = str(span.type or "span").lower()
    return "generation" if model and kind not in _GENERATIONS else kind


def _tokens(given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Count tokens by Langfuse's attributes, else by OpenTelemetry's; `input_cached` adds up."""
    usage = _mapping(given.get(names.USAGE_DETAILS))
    if not usage:
        usage_names = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
        into, out = (_count(given.get(name)) for name in usage_names)
        return into, out
    into, out = (
        _sum(_count(value) for key, value in usage.items() if key.startswith(side))
        for side in ("input", "output")
    )
    return into, out


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return min(sum(known), _LARGEST_INTEGER) if known else None


def _mapping(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else min(int(number), _LARGEST_INTEGER)


def _number(value: object) -> float | None:
    # A bool is an int. NaN and numbers below zero fail the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _LARGEST_INTEGER else None


def _text(value: object) -> str | None:
    """Return an input or output as text, which is mostly JSON."""
    if isinstance(value, str):
        # Most values have no escapes and need not be parsed.
        return _readable(value) if "\\u" in value else value
    return None if value is None else json.dumps(_plain(value), ensure_ascii=False)


def _readable(text: str) -> str:
    """Return JSON without escapes, so that a search finds its text."""
    try:
        readable = json.dumps(json.loads(text), ensure_ascii=False)
        # A lone surrogate is legal as an escape, but cannot be stored.
        readable.encode()
    except (ValueError, RecursionError):
        return text
    return readable


def _optional(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _plain(value: object) -> Any:
    """Convert a value to one that JSON can represent."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        return {key: _plain(item) for key, item in mapping.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    return value


_VERSION: Final = 1
_KEY: Final = "PRIMARY KEY (trace_id, span_id, start_ns)"
_SPANS: Final = f"CREATE TABLE spans ({', '.join(COLUMNS)}, {_KEY});"
_OTHERS: Final = """
CREATE TABLE traces (
    id TEXT PRIMARY KEY, name, tenant, session_id, user_id, environment, start_ns, end_ns, spans,
    errors, warnings, generations, tokens_in, tokens_out, cost, size, level, has_root, arrived
) WITHOUT ROWID;
CREATE INDEX traces_by_start ON traces (start_ns);
CREATE INDEX traces_by_arrival ON traces (arrived);
CREATE TABLE arrivals (last INTEGER NOT NULL);
INSERT INTO arrivals VALUES (0);
PRAGMA user_version = 1;
"""
# A span that is sent again after a lost answer replaces itself.
_INSERT: Final = f"INSERT OR REPLACE INTO spans VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - constants
_SUMMARISE: Final = """
WITH own AS (SELECT * FROM spans WHERE trace_id = :id),
root AS (SELECT name, level FROM own WHERE is_root ORDER BY start_ns LIMIT 1),
first AS (SELECT name, workflow_type FROM own ORDER BY start_ns, end_ns DESC LIMIT 1)
INSERT OR REPLACE INTO traces
SELECT :id,
    coalesce(max(trace_name), (SELECT name FROM root),
        (SELECT coalesce('workflow:' || workflow_type, name) FROM first)),
    max(tenant), max(session_id), max(user_id), max(environment), min(start_ns), max(end_ns),
    count(*), sum(level = 'ERROR'), sum(level = 'WARNING'),
    sum(type IN ('generation', 'embedding')), sum(tokens_in), sum(tokens_out), sum(cost), sum(size),
    (SELECT level FROM root), EXISTS (SELECT 1 FROM root), :arrived
FROM own
"""
_TOTAL: Final = "SELECT ifnull(sum(spans), 0), ifnull(sum(size), 0) FROM traces"
_OLDEST: Final = "SELECT id, spans, size FROM traces ORDER BY arrived"


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the database, and create it if it is missing."""
    # Opened in the thread of `start()`, for its errors. Transactions are begun by hand.
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        # Readers and the writer do not wait for each other; a power cut may lose the last spans.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            # In a transaction: a killed process leaves no database with half of the tables.
            connection.executescript(f"BEGIN;{_SPANS}{_OTHERS}COMMIT;")
            version = _VERSION
    except sqlite3.DatabaseError as error:
        connection.close()
        msg = f"{str(path)!r} is not a database of traces ({error}): delete it"
        raise ConfigurationError(msg) from error
    if version != _VERSION:
        connection.close()
        msg = f"{str(path)!r} was written by another version of Orkestra: delete it"
        raise ConfigurationError(msg)
    return connection


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Read a snapshot of the database, in parallel to the writer."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def write_rows(connection: sqlite3.Connection, rows: Iterable[tuple[object, ...]]) -> list[str]:
    """Write spans and update their traces in one transaction; return the IDs of the traces."""
    rows = list(rows)
    touched = list(dict.fromkeys(str(row[0]) for row in rows))
    with _transaction(connection):
        connection.executemany(_INSERT, rows)
        # A counter, not the time: the order of arrival must survive a clock that is set back.
        [arrived] = connection.execute("UPDATE arrivals SET last = last + 1 RETURNING last")
        for trace_id in touched:
            connection.execute(_SUMMARISE, {"id": trace_id, "arrived": arrived[0]})
    return touched


def delete_oldest(connection: sqlite3.Connection, *, max_spans: int, max_bytes: int) -> int:
    """Delete the traces without new spans for longest; return how many were deleted."""
    oldest: list[tuple[str]] = []
    with _transaction(connection):
        spans, size = connection.execute(_TOTAL).fetchone()
        for trace_id, its_spans, its_size in connection.execute(_OLDEST):
            if spans <= max_spans and size <= max_bytes:
                break
            oldest.append((trace_id,))
            spans, size = spans - its_spans, size - its_size
        connection.executemany("DELETE FROM spans WHERE trace_id = ?", oldest)
        connection.executemany("DELETE FROM traces WHERE id = ?", oldest)
    return len(oldest)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    # At once: a read lock that is upgraded later can fail when another process writes.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


MOST_TRACES: Final = 1000
MOST_SPANS: Final = 5000
_LONGEST_SEARCH_CHARACTERS: Final = 200
_MOST_WORDS: Final = 8
_NS_PER_MS: Final = 1_000_000

# Every word must be found somewhere in the trace.
_MATCHING: Final = r"""
FROM traces WHERE (:tenant IS NULL OR tenant = :tenant) AND (NOT :errors OR errors > 0)
AND NOT EXISTS (
    SELECT 1 FROM json_each(:words) AS word WHERE NOT (
        id LIKE word.value ESCAPE '\' OR ifnull(name, '') LIKE word.value ESCAPE '\'
        OR ifnull(tenant, '') LIKE word.value ESCAPE '\'
        OR ifnull(session_id, '') LIKE word.value ESCAPE '\'
        OR ifnull(user_id, '') LIKE word.value ESCAPE '\'
        OR EXISTS (SELECT 1 FROM spans WHERE trace_id = traces.id AND (
            name LIKE word.value ESCAPE '\' OR ifnull(message, '') LIKE word.value ESCAPE '\'
            OR ifnull(input, '') LIKE word.value ESCAPE '\'
            OR ifnull(output, '') LIKE word.value ESCAPE '\'))))
"""
_LIST: Final = f"SELECT * {_MATCHING} ORDER BY start_ns DESC, id LIMIT :limit"
_TENANTS: Final = """
SELECT tenant AS id, count(*) AS traces FROM traces WHERE tenant IS NOT NULL
GROUP BY tenant ORDER BY tenant
"""
_TREE: Final = """
SELECT span_id, parent_id, is_root, name, type, level, tenant, workflow_type, start_ns, end_ns,
    model, tokens_in, tokens_out, cost, attempt, substr(message, 1, 300) AS message
FROM spans WHERE trace_id = ? ORDER BY start_ns, end_ns DESC LIMIT ?
"""
# A span sent again with another start is a row of its own (T63); the page shows the first.
_SPAN: Final = "SELECT * FROM spans WHERE trace_id = ? AND span_id = ? ORDER BY start_ns LIMIT 1"
_RECEIVED: Final = """
SELECT trace_id, span_id, parent_id, name, start_ns, end_ns, attributes, input, output, message
FROM spans WHERE :trace_id IS NULL OR trace_id = :trace_id
"""


def list_traces(
    path: Path, *, tenant: str | None, search: str, errors: bool, limit: int
) -> dict[str, Any]:
    """List the newest traces with all words of `search`, and count the traces of each tenant."""
    limit = max(1, min(limit, MOST_TRACES))
    wanted = {
        "tenant": tenant,
        "errors": errors,
        "words": json.dumps(
            [_pattern(w) for w in search[:_LONGEST_SEARCH_CHARACTERS].split()[:_MOST_WORDS]]
        ),
        # One more than wanted tells whether there are more.
        "limit": limit + 1,
    }
    with reading(path) as connection:
        found = [_trace(row) for row in connection.execute(_LIST, wanted)]
        tenants = [dict(row) for row in connection.execute(_TENANTS)]
    return {"traces": found[:limit], "more": len(found) > limit, "tenants": tenants}


def read_trace(path: Path, trace_id: str) -> dict[str, Any] | None:
    """Return a trace and its spans without inputs and outputs; None if it is unknown."""
    with reading(path) as connection:
        trace = connection.execute("SELECT * FROM traces WHERE id = ?", (trace_id,)).fetchone()
        spans = connection.execute(_TREE, (trace_id, MOST_SPANS)).fetchall()
    if trace is None:
        return None
    return {"trace": _trace(trace), "spans": [_times(row) for row in spans]}


def read_span(path: Path, trace_id: str, span_id: str) -> dict[str, Any] | None:
    """Return a span with its input and output; None if it is unknown."""
    with reading(path) as connection:
        row = connection.execute(_SPAN, (trace_id, span_id)).fetchone()
    if row is None:
        return None
    span = _times(row)
    return {
        **span,
        "attributes": json.loads(span["attributes"]),
        "events": json.loads(span["events"]),
    }


def received_spans(path: Path, trace_id: str | None) -> Sequence[ReceivedSpan]:
    """Return the spans of a trace, or of all traces, as they were received."""
    with reading(path) as connection:
        return [_received(row) for row in connection.execute(_RECEIVED, {"trace_id": trace_id})]


def _pattern(word: str) -> str:
    # The backslash first, or it would escape those of the others.
    for special in "\\%_":
        word = word.replace(special, f"\\{special}")
    return f"%{word}%"


def _trace(row: sqlite3.Row) -> dict[str, Any]:
    trace = _times(row)
    del trace["arrived"], trace["size"]
    return trace


def _times(row: sqlite3.Row) -> dict[str, Any]:
    """Convert to milliseconds: nanoseconds since 1970 exceed JavaScript's exact integers."""
    values = dict(row)
    for name in ("start", "end"):
        values[name] = values.pop(f"{name}_ns") / _NS_PER_MS
    return values


def _received(row: sqlite3.Row) -> ReceivedSpan:
    contents = {"input": row["input"], "output": row["output"], "status_message": row["message"]}
    present = {
        f"{names.OBSERVATION_PREFIX}{name}": value
        for name, value in contents.items()
        if value is not None
    }
    return ReceivedSpan(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_id=row["parent_id"],
        name=row["name"],
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        attributes={**json.loads(row["attributes"]), **present},
    )
