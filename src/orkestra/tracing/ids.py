"""Trace and span ids, computed from what the server has recorded.

A workflow's span is sent by whichever worker completes it, long after the processes that began it
may be gone, and a history may be read years later. So no id is drawn at random: every process
computes the same one from the same facts.

| id of | bytes | parts |
| --- | --- | --- |
| the trace of an execution chain | 16 | `trace`, namespace, workflow ID, first execution run ID |
| a run's workflow span | 8 | `workflow`, run ID |
| a signal's span | 8 | `signal`, run ID, its number among the signals of the run, from 1 |
| an update's span | 8 | `update`, run ID, update ID |
| an activity attempt's span | 8 | `activity`, run ID, activity ID, attempt, scheduled time in ns |

The id is the beginning of the SHA-256 of the parts, in lower-case hexadecimal. Each part is
written as its length in UTF-8 bytes, a colon and the bytes, so that no two lists of parts are
written alike. A standalone activity has its own ID and run ID in place of the workflow's.

Start times are the server's too: the workflow's start, the start of the workflow task that
delivered a signal or update, and the attempt's start.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def trace_id_of(namespace: str, workflow_id: str, first_run_id: str) -> str:
    """The trace of an execution chain: all its retries, cron runs and continuations.

    Args:
        namespace: Namespace of the workflow.
        workflow_id: Workflow ID as the server has it.
        first_run_id: Run ID of the chain's first run.

    Returns:
        32 hexadecimal digits.
    """
    return _digest("trace", namespace, workflow_id, first_run_id)[:_TRACE_ID_DIGITS]


def workflow_span_id(run_id: str) -> str:
    """The span of one run of a workflow: 16 hexadecimal digits."""
    return _digest("workflow", run_id)[:_SPAN_ID_DIGITS]


def message_span_id(run_id: str, kind: Literal["signal", "update"], key: int | str) -> str:
    """The span of a signal or update that a run handled.

    Args:
        run_id: Run ID of the run that handled it.
        kind: What it was.
        key: The number of the signal in the run, from 1, or the update's ID.

    Returns:
        16 hexadecimal digits.
    """
    return _digest(kind, run_id, str(key))[:_SPAN_ID_DIGITS]


def activity_span_id(run_id: str, activity_id: str, attempt: int, scheduled: datetime) -> str:
    """The span of one attempt of an activity.

    Args:
        run_id: Run ID of the workflow, or of a standalone activity.
        activity_id: Activity ID.
        attempt: Number of the attempt, from 1; resetting an activity begins again at 1.
        scheduled: When this attempt was scheduled.

    Returns:
        16 hexadecimal digits.
    """
    parts = (run_id, activity_id, str(attempt), str(nanoseconds(scheduled)))
    return _digest("activity", *parts)[:_SPAN_ID_DIGITS]


def nanoseconds(time: datetime) -> int:
    """An aware time as nanoseconds since 1970, exactly; `timestamp()` would round."""
    return (time - _EPOCH) // _MICROSECOND * 1000


def _digest(*parts: str) -> str:
    written = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        written.update(b"%d:%b" % (len(encoded), encoded))
    return written.hexdigest()
