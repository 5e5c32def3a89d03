"""The database of traces: one thread writes it, in batches; any thread reads it."""

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from orkestra.errors import ConfigurationError
from orkestra.tracepage.rows import COLUMNS

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
# A span that is sent again, after a lost answer, replaces itself.
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
    """Open the database, and make it where there is none.

    Args:
        path: The file; its directory must exist.

    Raises:
        ConfigurationError: The file is no such database.
    """
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN;{_SPANS}{_OTHERS}COMMIT;")
            version = _VERSION
    except sqlite3.DatabaseError as error:
        connection.close()
        msg = f"{str(path)!r} cannot be used as a database of traces ({error}): remove it"
        raise ConfigurationError(msg) from error
    if version != _VERSION:
        connection.close()
        msg = f"{str(path)!r} was made by another version of Orkestra: remove it"
        raise ConfigurationError(msg)
    return connection


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Read the database as it is now, whatever is written meanwhile."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def write_rows(connection: sqlite3.Connection, rows: Iterable[tuple[object, ...]]) -> list[str]:
    """Write spans and bring their traces up to date; all of it or, on an error, nothing.

    Returns:
        The ids of the traces.
    """
    rows = list(rows)
    touched = list(dict.fromkeys(str(row[0]) for row in rows))
    with _transaction(connection):
        connection.executemany(_INSERT, rows)
        [arrived] = connection.execute("UPDATE arrivals SET last = last + 1 RETURNING last")
        for trace_id in touched:
            connection.execute(_SUMMARISE, {"id": trace_id, "arrived": arrived[0]})
    return touched


def forget_oldest(connection: sqlite3.Connection, *, max_spans: int, max_bytes: int) -> int:
    """Delete the traces that were silent for longest until the rest is within bounds.

    Returns:
        How many traces were deleted.
    """
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
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
