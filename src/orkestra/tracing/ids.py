"""Trace and span ids, computed from what the server has recorded.

A workflow's span is sent by whichever worker completes it, long after the processes that began it
may be gone, and a history may be read years later. So no id is drawn at random: every process
computes the same one from the same facts, and all of them stand in the history.

| id of | bytes | parts |
| --- | --- | --- |
| the trace of an execution chain | 16 | `trace`, namespace, workflow ID, first execution run ID |
| a run's workflow span | 8 | `workflow`, run ID |
| a signal's span | 8 | `signal`, run ID, ID of the event `WorkflowExecutionSignaled` |
| an update's span | 8 | `update`, run ID, update ID |
| an activity attempt's span | 8 | `activity`, run ID, activity ID, attempt, start time in ns |
| a timer's span | 8 | `timer`, run ID, timer ID |
| a Nexus operation's span | 8 | `nexus`, run ID, its number among those of the run, from 1 |
| a child that did not start | 8 | `child`, run ID, the child's workflow ID, start time in ns |
| a signal that did not arrive | 8 | `undelivered`, run ID, workflow ID, signal, start time |
| a query's span | 8 | `query`, run ID, query ID, start time in ns |

The id is the beginning of the SHA-256 of the parts, in lower-case hexadecimal. Each part is
written as its length in UTF-8 bytes, a colon and the bytes, so that no two lists of parts are
written alike. A standalone activity has its own ID and run ID in place of the workflow's.

The start times are the server's, cut to whole microseconds:

| start of | time |
| --- | --- |
| a workflow's span | of the event `WorkflowExecutionStarted` |
| an activity attempt's span | of `ActivityTaskStarted`, an event that only the last attempt has |
| a local activity attempt's span | of the workflow's clock when it was scheduled |
| all others | of the workflow's clock when it was delivered to, or issued by, the workflow's code |

The workflow's clock is `workflow.time_ns()`; `orkestra.tracing.WorkflowClock` tells how a history
gives it. A query is not in the history: its start time is the worker's.

A history does not know whether a signal was ever taken by a handler, nor when attempts of an
activity before the last began; a reset run's history begins with events of the run that was reset,
whose spans are that run's.
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
    return _span_id("workflow", run_id)


def message_span_id(run_id: str, kind: Literal["signal", "update"], key: int | str) -> str:
    """The span of a signal or update that a run handled.

    Args:
        run_id: Run ID of the run that handled it.
        kind: What it was.
        key: The ID of the signal's event in the run's history, or the update's ID.

    Returns:
        16 hexadecimal digits.
    """
    return _span_id(kind, run_id, str(key))


def activity_span_id(run_id: str, activity_id: str, attempt: int, start_ns: int) -> str:
    """The span of one attempt of an activity.

    Args:
        run_id: Run ID of the workflow, or of a standalone activity.
        activity_id: Activity ID.
        attempt: Number of the attempt, from 1; resetting an activity begins again at 1.
        start_ns: When the span begins, in whole microseconds as nanoseconds since 1970.

    Returns:
        16 hexadecimal digits.
    """
    return _span_id("activity", run_id, activity_id, str(attempt), str(start_ns))


def timer_span_id(run_id: str, timer_id: str) -> str:
    """The span of a timer, by the ID that its event has: 16 hexadecimal digits."""
    return _span_id("timer", run_id, timer_id)


def nexus_span_id(run_id: str, number: int) -> str:
    """The span of the run's n-th Nexus operation, from 1: 16 hexadecimal digits."""
    return _span_id("nexus", run_id, str(number))


def child_span_id(run_id: str, child_id: str, start_ns: int) -> str:
    """The span of a child that did not start, by its workflow ID: 16 hexadecimal digits."""
    return _span_id("child", run_id, child_id, str(start_ns))


def undelivered_span_id(run_id: str, workflow_id: str, signal: str, start_ns: int) -> str:
    """The span of a signal that did not reach the workflow of the ID: 16 hexadecimal digits."""
    return _span_id("undelivered", run_id, workflow_id, signal, str(start_ns))


def query_span_id(run_id: str, query_id: str, start_ns: int) -> str:
    """The span of a query: 16 hexadecimal digits."""
    return _span_id("query", run_id, query_id, str(start_ns))


def nanoseconds(time: datetime) -> int:
    """An aware time as nanoseconds since 1970, exactly; `timestamp()` would round."""
    return (time - _EPOCH) // _MICROSECOND * 1000


def _span_id(*parts: str) -> str:
    return _digest(*parts)[:_SPAN_ID_DIGITS]


def _digest(*parts: str) -> str:
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    written = b"".join([b"%d:%b" % (len(part), part) for part in encoded])
    return hashlib.sha256(written).hexdigest()
