"""Traces from histories: rebuilt, compared with what Langfuse has, and sent."""

from orkestra.temporal.histories.backfill import (
    backfill_trace,
    backfill_traces,
    count_traces,
)
from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.reports import BackfillReport
from orkestra.temporal.histories.traces import read_trace

__all__ = [
    "BackfillReport",
    "Episode",
    "backfill_trace",
    "backfill_traces",
    "count_traces",
    "read_trace",
]
