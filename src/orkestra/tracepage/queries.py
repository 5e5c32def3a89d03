"""What the page asks of the database."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orkestra.otlp import ReceivedSpan
from orkestra.tracepage.database import reading

MOST_TRACES: Final = 1000
MOST_SPANS: Final = 5000
_LONGEST_SEARCH: Final = 200
_MOST_WORDS: Final = 8
_MILLISECOND: Final = 1_000_000

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
_SPAN: Final = "SELECT * FROM spans WHERE trace_id = ? AND span_id = ? ORDER BY start_ns LIMIT 1"
_RECEIVED: Final = """
SELECT trace_id, span_id, parent_id, name, start_ns, end_ns, attributes, input, output, message
FROM spans WHERE :trace_id IS NULL OR trace_id = :trace_id
"""


def list_traces(
    path: Path, *, tenant: str | None, search: str, errors: bool, limit: int
) -> dict[str, Any]:
    """The newest traces.

    Args:
        path: The database.
        tenant: Of this tenant only.
        search: Words that must all be found in each trace.
        errors: Only those with an error in them.
        limit: How many at most.

    Returns:
        The traces, whether there are more, and every tenant with its number of traces.
    """
    limit = max(1, min(limit, MOST_TRACES))
    wanted = {
        "tenant": tenant,
        "errors": errors,
        "words": json.dumps([_pattern(w) for w in search[:_LONGEST_SEARCH].split()[:_MOST_WORDS]]),
        "limit": limit + 1,
    }
    with reading(path) as connection:
        found = [_trace(row) for row in connection.execute(_LIST, wanted)]
        tenants = [dict(row) for row in connection.execute(_TENANTS)]
    return {"traces": found[:limit], "more": len(found) > limit, "tenants": tenants}


def read_trace(path: Path, trace_id: str) -> dict[str, Any] | None:
    """One trace and its spans without their contents; None where there is none."""
    with reading(path) as connection:
        trace = connection.execute("SELECT * FROM traces WHERE id = ?", (trace_id,)).fetchone()
        spans = connection.execute(_TREE, (trace_id, MOST_SPANS)).fetchall()
    if trace is None:
        return None
    return {"trace": _trace(trace), "spans": [_times(row) for row in spans]}


def read_span(path: Path, trace_id: str, span_id: str) -> dict[str, Any] | None:
    """One span with its contents; None where there is none."""
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
    """The spans of a trace, or of all, as they were received."""
    with reading(path) as connection:
        return [_received(row) for row in connection.execute(_RECEIVED, {"trace_id": trace_id})]


def _pattern(word: str) -> str:
    for special in "\\%_":
        word = word.replace(special, f"\\{special}")
    return f"%{word}%"


def _trace(row: sqlite3.Row) -> dict[str, Any]:
    trace = _times(row)
    del trace["arrived"], trace["size"]
    return trace


def _times(row: sqlite3.Row) -> dict[str, Any]:
    """In milliseconds: nanoseconds since 1970 are more than JavaScript can count."""
    values = dict(row)
    for name in ("start", "end"):
        values[name] = values.pop(f"{name}_ns") / _MILLISECOND
    return values


def _received(row: sqlite3.Row) -> ReceivedSpan:
    prefix = "langfuse.observation."
    contents = {"input": row["input"], "output": row["output"], "status_message": row["message"]}
    present = {f"{prefix}{name}": value for name, value in contents.items() if value is not None}
    return ReceivedSpan(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_id=row["parent_id"],
        name=row["name"],
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        attributes={**json.loads(row["attributes"]), **present},
    )
