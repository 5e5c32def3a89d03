"""Traces from histories: rebuilt, compared with what Langfuse has, and sent."""

from orkestra.temporal.backfill.backfill import (
    BackfillReport,
    backfill_trace,
    backfill_traces,
    count_traces,
    read_trace,
)
from orkestra.temporal.backfill.rebuild import Episode

__all__ = [
    "BackfillReport",
    "Episode",
    "backfill_trace",
    "backfill_traces",
    "count_traces",
    "read_trace",
]
