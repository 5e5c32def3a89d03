"""Traces rebuilt from history, compared with what Langfuse has, and sent."""

from orkestra.temporal.backfill.backfill import (
    BackfillReport,
    backfill_trace,
    backfill_traces,
    count_traces,
    read_trace,
)
from orkestra.temporal.backfill.rebuild import PartialSpan

__all__ = [
    "BackfillReport",
    "PartialSpan",
    "backfill_trace",
    "backfill_traces",
    "count_traces",
    "read_trace",
]
