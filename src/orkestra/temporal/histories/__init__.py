"""Traces from histories: rebuilt, compared with what Langfuse has, and sent."""

from orkestra.temporal.histories.backfill import backfill_trace, backfill_traces
from orkestra.temporal.histories.reports import BackfillReport

__all__ = ["BackfillReport", "backfill_trace", "backfill_traces"]
